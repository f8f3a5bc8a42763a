// ModelSpec: what a language model computes, as data. Walkers (loader, executor, statistics, allocator) read it; it runs nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace tq {

// What a linear is for; allocation and reports group by it.
enum class Role : uint8_t { kQuery, kKey, kValue, kFusedQkv, kOutput, kGate, kUp, kFusedGateUp, kDown, kRouter, kHead };

// y[T, out] = x[T, in] · W[out, in]^T + bias. Tensors are `name`.weight and `name`.bias, in Hugging Face's spelling.
struct Linear {
  std::string name;
  int64_t in = 0;
  int64_t out = 0;
  bool bias = false;
  int64_t experts = 0;  // > 0: stacked [experts, out, in]
  std::string tap;      // linears with the same tap read the same input: shared statistics and rotation
  Role role = Role::kQuery;
  std::string tie_group;  // linears that exports fuse and that must then share a rate; empty: none
};

// RMS norm over the last dimension: x / sqrt(mean(x^2) + epsilon) * (weight + offset), offset = ModelSpec::norm_offset.
struct Norm {
  std::string name;  // of the weight's tensor, without ".weight"
  int64_t width = 0;
  float epsilon = 1e-6f;
};

// Rotary position embedding of the first 2 * inv_freq.size() dimensions of a head, halves rotated ("neox" order).
struct Rope {
  std::vector<float> inv_freq;       // [rotary / 2], every scaling already applied
  std::vector<float> long_inv_freq;  // [rotary / 2] or empty: used when the sequence is longer than original_context (longrope)
  int64_t original_context = 0;
  float magnitude = 1.0f;  // multiplies cos and sin (yarn, longrope)
};

struct Attention {
  std::vector<Linear> qkv;  // q, k, v or one fused
  Linear output;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  std::optional<Norm> query_norm;  // over head_dim
  std::optional<Norm> key_norm;
  Rope rope;
  int64_t window = 0;  // 0: all earlier tokens; else a token sees itself and window - 1 before it
  float score_scale = 0.0f;
  float softcap = 0.0f;  // 0: none
};

enum class Activation : uint8_t { kSilu, kGeluTanh, kGelu };

struct Mlp {
  std::vector<Linear> gate_up;  // gate, up or one fused
  Linear down;
  Activation activation = Activation::kSilu;
};

struct Moe {
  Linear router;
  std::vector<Linear> gate_up;  // stacked over experts
  Linear down;
  int64_t experts_per_token = 0;
  bool normalize_weights = true;  // the chosen experts' softmax weights are scaled to sum to 1
  Activation activation = Activation::kSilu;
};

// x += post(op(pre(x)))
struct Block {
  Norm pre;
  std::variant<Attention, Mlp, Moe> op;
  std::optional<Norm> post;
};

struct ModelSpec {
  std::string family;  // the name in families.def
  int64_t layers_count() const { return static_cast<int64_t>(layers.size()); }
  int64_t hidden = 0;
  int64_t vocabulary = 0;
  int64_t context = 0;  // longest sequence the model was made for
  float embed_scale = 1.0f;
  float norm_offset = 0.0f;    // 1 for Gemma, whose files store weight - 1
  float final_softcap = 0.0f;  // 0: none
  bool tied = false;           // the head is the embedding
  std::string embedding;       // tensor name without ".weight", [vocabulary, hidden]
  std::vector<std::vector<Block>> layers;
  Norm final_norm;
  Linear head;  // tied: head.name is the embedding's
};

// Every linear of the layers, in order; without the head.
std::vector<const Linear*> linears(const ModelSpec& spec);
// The linears of one block, in order of use.
std::vector<const Linear*> linears(const Block& block);

}  // namespace tq
