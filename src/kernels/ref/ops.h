// The scalar oracle: every operation of the executor as its definition reads, in float with double sums. Fast kernels are tested against
// it.
#pragma once

#include <cstdint>
#include <span>

namespace tq::ref {

// y[T, R] = x[T, C] · W[R, C]^T (+ bias[R] if not null)
struct MatmulArgs {
  const float* input = nullptr;   // [T, C]
  const float* weight = nullptr;  // [R, C]
  const float* bias = nullptr;    // [R] or null
  float* output = nullptr;        // [T, R]
  int64_t tokens = 0, rows = 0, columns = 0;
};
void matmul(const MatmulArgs& args);

// output = input / sqrt(mean(input^2) + epsilon) * (weight + offset), over the last dimension. output may be input.
struct RmsNormArgs {
  const float* input = nullptr;   // [count, width]
  const float* weight = nullptr;  // [width]
  float* output = nullptr;        // [count, width]
  int64_t count = 0, width = 0;
  float epsilon = 0.0f, offset = 0.0f;
};
void rms_norm(const RmsNormArgs& args);

// Rotates dimensions (i, i + n) of each head by position * inv_freq[i], n = inv_freq.size(), in place.
struct RopeArgs {
  float* values = nullptr;  // [T, heads, head_dim]
  int64_t tokens = 0, heads = 0, head_dim = 0;
  int64_t first_position = 0;
  std::span<const float> inv_freq;
  float magnitude = 1.0f;
};
void rope(const RopeArgs& args);

// Causal attention of T new tokens over `past` cached ones and themselves.
struct AttentionArgs {
  const float* query = nullptr;  // [T, heads, head_dim]
  const float* key = nullptr;    // [past + T, kv_heads, head_dim]
  const float* value = nullptr;  // [past + T, kv_heads, head_dim]
  float* output = nullptr;       // [T, heads, head_dim]
  int64_t tokens = 0, past = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t window = 0;  // 0: all; else a token sees itself and window - 1 before it
  float scale = 1.0f;
  float softcap = 0.0f;  // 0: none; else scores become softcap * tanh(score / softcap)
};
void attention(const AttentionArgs& args);

enum class Gate : uint8_t { kSilu, kGeluTanh, kGelu };
float activate(Gate gate, float x);

// output[T, width] = activate(gate) * up, both [T, width]
void gated(Gate kind, std::span<const float> gate, std::span<const float> up, std::span<float> output);

}  // namespace tq::ref
