// The pre-norm decoder that every family here is a variation of: its dimensions read once, its layers built from a few switches.
#pragma once

#include <functional>

#include "base/json.h"
#include "model/rope.h"
#include "model/spec.h"

namespace tq {

struct DecoderTraits {
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  bool head_norms = false;       // RMS norm of each query and key head
  bool fused = false;            // qkv_proj and gate_up_proj (Phi-3)
  bool post_norms = false;       // Gemma's four norms a layer
  bool default_tied = false;     // tie_word_embeddings when the file is silent
  int64_t default_head_dim = 0;  // 0: hidden / heads
  double default_theta = 10000.0;
  Activation activation = Activation::kSilu;
};

struct DecoderDims {
  int64_t hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  float epsilon = 1e-6f;
};

struct MoeTraits {
  int64_t experts = 0, experts_per_token = 0, intermediate = 0;
  bool normalize_weights = true;
  std::string prefix;  // "block_sparse_moe" (Mixtral) or "mlp"
};

// Reads the dimensions and fills the spec's embedding, final norm and head. Errors: a missing, absurd or inconsistent field.
Result<DecoderDims> read_dims(const JsonReader& config, const DecoderTraits& traits, ModelSpec* spec);

Block attention_block(const DecoderDims& dims, const DecoderTraits& traits, int64_t layer, const Rope& rope, int64_t window);
Block mlp_block(const DecoderDims& dims, const DecoderTraits& traits, int64_t layer);
// Experts are named by their stack, e.g. model.layers.0.mlp.experts.gate_proj; loaders map per-expert and fused spellings to it.
Block moe_block(const DecoderDims& dims, const DecoderTraits& common, const MoeTraits& traits, int64_t layer);

// Reads `hidden_act` / `hidden_activation`; errors when it is not one that the executor knows.
Result<Activation> read_activation(const JsonReader& config, std::string_view fallback);

}  // namespace tq
