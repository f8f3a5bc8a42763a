// Float kernels over vectors of kWidth lanes (the compilers' vector extension). Include once per instruction set after defining
// TQ_SIMD_WIDTH (floats a vector) and TQ_SIMD_TOKENS (tokens of the GEMM's register block).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/simd/kernels.h"
#include "kernels/cpu/simd/vectors_simd.h"
#include "kernels/kv_row.h"

namespace tq::cpu {
namespace {

constexpr int kTokens = TQ_SIMD_TOKENS;
constexpr int64_t kVectors = kBandRows / kWidth;        // of a packed row
constexpr int64_t kPass = kVectors < 2 ? kVectors : 2;  // vectors that one pass keeps in registers

// exp with a relative error below 2e-7: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (degree 6, Taylor coefficients refitted by Cephes).
// Arguments are clamped to the range of normal results.
inline Vector exp_of(Vector x) {
  x = max_of(min_of(x, splat(88.0f)), splat(-87.0f));
  const Vector shifted = x * 1.44269504f + splat(12582912.0f);  // 1.5 * 2^23: rounds to a whole number
  const Vector n = shifted - 12582912.0f;
  Vector r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vector p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Vector value = p * (r * r) + r + 1.0f;
  const IntVector exponent = (__builtin_convertvector(n, IntVector) + 127) << 23;
  Vector power;
  std::memcpy(&power, &exponent, sizeof power);
  return value * power;
}

// tanh through exp(-2 |x|).
inline Vector tanh_of(Vector x) {
  const Vector positive = x < 0 ? -x : x;
  const Vector e = exp_of(positive * -2.0f);
  const Vector t = (1.0f - e) / (1.0f + e);
  return x < 0 ? -t : t;
}

template <int kCount>
void gemm_tokens(const BandArgs& args, int64_t token) {
  const float* input = args.input + token * args.input_stride;
  for (int64_t pass = 0; pass < kVectors; pass += kPass) {
    Vector sum[kCount][kPass] = {};
    const float* packed = args.packed + pass * kWidth;
    for (int64_t k = 0; k < args.columns; ++k, packed += kBandRows) {
      Vector weight[kPass];
      for (int64_t v = 0; v < kPass; ++v) weight[v] = load(packed + v * kWidth);
      for (int t = 0; t < kCount; ++t) {
        const Vector x = splat(input[t * args.input_stride + k]);
        for (int64_t v = 0; v < kPass; ++v) sum[t][v] += x * weight[v];
      }
    }
    for (int t = 0; t < kCount; ++t) {
      float* output = args.output + (token + t) * args.output_stride;
      for (int64_t v = 0; v < kPass; ++v) {
        const int64_t first = (pass + v) * kWidth;
        if (first + kWidth <= args.rows && !args.bias) {
          store(output + first, sum[t][v]);
          continue;
        }
        // By a copy: an element of a sum that is chosen here would keep all of them in memory, stored at every step of the loop above.
        float values[kWidth];
        store(values, sum[t][v]);
        for (int64_t i = 0; i < kWidth && first + i < args.rows; ++i)
          output[first + i] = values[i] + (args.bias ? args.bias[first + i] : 0.0f);
      }
    }
  }
}

void gemm_band(const BandArgs& args) {
  int64_t token = 0;
  for (; token + kTokens <= args.tokens; token += kTokens) gemm_tokens<kTokens>(args, token);
  for (; token + 4 <= args.tokens; token += 4) gemm_tokens<4>(args, token);
  for (; token < args.tokens; ++token) gemm_tokens<1>(args, token);
}

void pack_band(const float* rows, int64_t n, int64_t columns, int64_t row_stride, float* packed) {
  for (int64_t k = 0; k < columns; k += 16) {
    const int64_t count = std::min<int64_t>(16, columns - k);
    for (int64_t r = 0; r < kBandRows; ++r)
      for (int64_t i = 0; i < count; ++i) packed[(k + i) * kBandRows + r] = r < n ? rows[r * row_stride + k + i] : 0.0f;
  }
}

constexpr int64_t kPanelVectors = 2;
constexpr int64_t kPanelRows = kPanelVectors * kWidth;

void multiply_panel(const PanelArgs& args) {
  Vector sum[kTokens][kPanelVectors] = {};
  const float* input = args.input;
  const float* panel = args.panel;
  for (int64_t k = 0; k < args.columns; ++k, input += kTokens, panel += kPanelRows) {
    Vector weight[kPanelVectors];
    for (int64_t v = 0; v < kPanelVectors; ++v) weight[v] = load(panel + v * kWidth);
    for (int t = 0; t < kTokens; ++t) {
      const Vector x = splat(input[t]);
      for (int64_t v = 0; v < kPanelVectors; ++v) sum[t][v] += x * weight[v];
    }
  }
  for (int t = 0; t < kTokens; ++t)
    for (int64_t v = 0; v < kPanelVectors; ++v) {
      float* out = args.sums + t * kPanelRows + v * kWidth;
      store(out, load(out) + sum[t][v]);
    }
}

// The first halves of a and b with their lanes alternating; the second halves.
inline Vector interleave_low(Vector a, Vector b) {
#if TQ_SIMD_WIDTH == 16
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif TQ_SIMD_WIDTH == 8
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}
inline Vector interleave_high(Vector a, Vector b) {
#if TQ_SIMD_WIDTH == 16
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif TQ_SIMD_WIDTH == 8
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

// kWidth x kWidth from rows to columns, by as many riffles as 2 goes into kWidth.
inline void transpose(Vector (&v)[kWidth]) {
  for (int64_t step = 1; step < kWidth; step *= 2) {
    Vector next[kWidth];
    for (int64_t i = 0; i < kWidth / 2; ++i) {
      next[2 * i] = interleave_low(v[i], v[i + kWidth / 2]);
      next[2 * i + 1] = interleave_high(v[i], v[i + kWidth / 2]);
    }
    for (int64_t i = 0; i < kWidth; ++i) v[i] = next[i];
  }
}

void pack_panel(const float* rows, int64_t n, int64_t columns, int64_t row_stride, float* panel) {
  for (int64_t first = 0; first < kPanelRows; first += kWidth) {
    int64_t k = 0;
    for (; k + kWidth <= columns; k += kWidth) {
      Vector block[kWidth];
      for (int64_t r = 0; r < kWidth; ++r) block[r] = first + r < n ? load(rows + (first + r) * row_stride + k) : Vector{};
      transpose(block);
      for (int64_t i = 0; i < kWidth; ++i) store(panel + (k + i) * kPanelRows + first, block[i]);
    }
    for (; k < columns; ++k)
      for (int64_t r = first; r < first + kWidth; ++r) panel[k * kPanelRows + r] = r < n ? rows[r * row_stride + k] : 0.0f;
  }
}

float dot(const float* a, const float* b, int64_t count) {
  Vector sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kWidth <= count; i += 4 * kWidth)
    for (int v = 0; v < 4; ++v) sum[v] += load(a + i + v * kWidth) * load(b + i + v * kWidth);
  for (; i + kWidth <= count; i += kWidth) sum[0] += load(a + i) * load(b + i);
  float tail = 0;
  for (; i < count; ++i) tail += a[i] * b[i];
  return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) + tail;
}

void add_scaled(float* y, const float* x, float scale, int64_t count) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(y + i, load(y + i) + load(x + i) * scale);
  for (; i < count; ++i) y[i] += x[i] * scale;
}

void norm(const float* input, const float* weight, float offset, float epsilon, int64_t width, float* output) {
  // In double by parts: hidden states have a few huge entries.
  double squares = 0;
  for (int64_t i = 0; i < width; i += 256) {
    const int64_t count = std::min<int64_t>(256, width - i);
    squares += dot(input + i, input + i, count);
  }
  const auto scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(width) + epsilon));
  for (int64_t i = 0; i < width; ++i) output[i] = input[i] * scale * (weight[i] + offset);
}

template <typename Function>
void map_pairs(const float* gate, const float* up, float* output, int64_t count, Function function) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(output + i, function(load(gate + i)) * load(up + i));
  if (i == count) return;
  float g[kWidth] = {}, u[kWidth] = {}, y[kWidth];
  std::copy(gate + i, gate + count, g);
  std::copy(up + i, up + count, u);
  store(y, function(load(g)) * load(u));
  std::copy(y, y + (count - i), output + i);
}

void gated(GateKind kind, const float* gate, const float* up, float* output, int64_t count) {
  switch (kind) {
    case GateKind::kSilu: return map_pairs(gate, up, output, count, [](Vector x) { return x / (1.0f + exp_of(-x)); });
    case GateKind::kGeluTanh:
      return map_pairs(gate, up, output, count,
                       [](Vector x) { return x * 0.5f * (1.0f + tanh_of((x + x * x * x * 0.044715f) * 0.7978845608f)); });
    case GateKind::kGelu:
      for (int64_t i = 0; i < count; ++i) output[i] = 0.5f * gate[i] * (1.0f + std::erf(gate[i] * 0.70710678f)) * up[i];
  }
}

double exponentials(const float* values, float shift, int64_t count, float* out) {
  constexpr int64_t kPart = 64 * kWidth;  // terms in (0, 1] that floats may sum
  double sum = 0;
  int64_t i = 0;
  const int64_t whole = count / kWidth * kWidth;
  while (i < whole) {
    Vector sums = {};
    for (const int64_t end = std::min(whole, i + kPart); i < end; i += kWidth) {
      const Vector e = exp_of(load(values + i) - shift);
      store(out + i, e);
      sums += e;
    }
    sum += static_cast<double>(sum_lanes(sums));
  }
  for (; i < count; ++i) sum += static_cast<double>(out[i] = std::exp(values[i] - shift));
  return sum;
}

void softmax(float* scores, int64_t count, float scale, float softcap) {
  const int64_t whole = count / kWidth * kWidth;
  Vector largest = splat(-INFINITY);
  for (int64_t i = 0; i < whole; i += kWidth) {
    Vector s = load(scores + i) * scale;
    if (softcap > 0) s = tanh_of(s / softcap) * softcap;
    store(scores + i, s);
    largest = max_of(largest, s);
  }
  float top = largest_lane(largest);
  for (int64_t i = whole; i < count; ++i) {
    scores[i] *= scale;
    if (softcap > 0) scores[i] = softcap * std::tanh(scores[i] / softcap);
    top = std::max(top, scores[i]);
  }
  Vector sums = {};
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Vector e = exp_of(load(scores + i) - top);
    store(scores + i, e);
    sums += e;
  }
  float sum = sum_lanes(sums);
  for (int64_t i = whole; i < count; ++i) sum += scores[i] = std::exp(scores[i] - top);
  const float inverse = 1.0f / sum;
  for (int64_t i = 0; i < count; ++i) scores[i] *= inverse;
}

void load_kv(KvType type, const std::byte* row, int64_t head_dim, float* out) {
#if defined(__F16C__) || defined(__AVX512F__)
  if (type == KvType::kF16) {
    using Half = _Float16 __attribute__((vector_size(TQ_SIMD_WIDTH * 2)));
    int64_t i = 0;
    for (; i + kWidth <= head_dim; i += kWidth) {
      Half half;
      std::memcpy(&half, row + i * 2, sizeof half);
      store(out + i, __builtin_convertvector(half, Vector));
    }
    for (; i < head_dim; ++i) out[i] = f16_to_float(reinterpret_cast<const uint16_t*>(row)[i]);
    return;
  }
#endif
  load_kv_row(type, row, head_dim, out);
}

void store_kv(KvType type, const float* values, int64_t head_dim, std::byte* row) { store_kv_row(type, values, head_dim, row); }

constexpr FloatKernels kTable = {kTokens,    kPanelRows, multiply_panel, pack_panel, gemm_band,    pack_band, dot,
                                 add_scaled, norm,       gated,          softmax,    exponentials, load_kv,   store_kv};

}  // namespace
}  // namespace tq::cpu
