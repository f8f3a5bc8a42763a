// Row kernels of one instruction set. Include once after defining TQ_SIMD_WIDTH.
#pragma once

#include "base/rounding_scale.h"
#include "kernels/cpu/rows/blocks_simd.h"
#include "kernels/cpu/rows/row_kernels.h"
#include "kernels/cpu/simd/vectors_simd.h"

namespace tq::cpu {
namespace {

constexpr int kPassTokens = 4;  // tokens that one pass over a row serves

// sum + products of the lanes, two a lane; which two is open, since all lanes are added in the end.
inline Ints add_products(Ints sum, Words a, Words b) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  __m256i x, y, z;
  std::memcpy(&x, &a, sizeof x), std::memcpy(&y, &b, sizeof y), std::memcpy(&z, &sum, sizeof z);
  z = _mm256_dpwssd_epi32(z, x, y);
  std::memcpy(&sum, &z, sizeof z);
  return sum;
#elif defined(__AVX2__)
  __m256i x, y;
  std::memcpy(&x, &a, sizeof x), std::memcpy(&y, &b, sizeof y);
  const __m256i both = _mm256_madd_epi16(x, y);
  Ints products;
  std::memcpy(&products, &both, sizeof both);
  return sum + products;
#else
  using Half = int16_t __attribute__((vector_size(16)));
  Half parts[4];
  std::memcpy(parts, &a, sizeof a), std::memcpy(parts + 2, &b, sizeof b);
  sum += __builtin_convertvector(parts[0], Ints) * __builtin_convertvector(parts[2], Ints);
  return sum + __builtin_convertvector(parts[1], Ints) * __builtin_convertvector(parts[3], Ints);
#endif
}

inline Words words_at(const int16_t* data) {
  Words words;
  std::memcpy(&words, data, sizeof words);
  return words;
}

inline Floats floats_at(const float* data) {
  Floats floats;
  std::memcpy(&floats, data, sizeof floats);
  return floats;
}

// Elements: dot products of kRows rows with kCount tokens, all sums at once.
template <Vector (*kLoad)(const std::byte*), int kBytes, int kRows, int kCount>
void dot_elements(const RowArgs& args, int64_t row, int64_t token) {
  const std::byte* weights = args.rows + row * args.row_bytes;
  const float* input = args.input + token * args.columns;
  Vector sum[kRows][kCount] = {};
  int64_t k = 0;
  for (; k + kWidth <= args.columns; k += kWidth) {
    Vector x[kCount];
    for (int t = 0; t < kCount; ++t) x[t] = load(input + t * args.columns + k);
    for (int r = 0; r < kRows; ++r) {
      const Vector w = kLoad(weights + r * args.row_bytes + k * kBytes);
      for (int t = 0; t < kCount; ++t) sum[r][t] += w * x[t];
    }
  }
  const int64_t left = args.columns - k;
  for (int r = 0; r < kRows; ++r) {
    std::byte tail[kWidth * kBytes] = {};
    std::memcpy(tail, weights + r * args.row_bytes + k * kBytes, static_cast<size_t>(left * kBytes));
    const Vector w = kLoad(tail);
    for (int t = 0; t < kCount; ++t) {
      float last = 0;
      for (int64_t i = 0; i < left; ++i) last += w[i] * input[t * args.columns + k + i];
      args.output[(token + t) * args.stride + row + r] = sum_lanes(sum[r][t]) + last;
    }
  }
}

template <Vector (*kLoad)(const std::byte*), int kBytes, int kRows>
void dot_element_rows(const RowArgs& args, int64_t row) {
  for (int64_t token = 0; token < args.tokens; token += kPassTokens) {
    switch (args.tokens - token) {
      case 1: dot_elements<kLoad, kBytes, kRows, 1>(args, row, token); break;
      case 2: dot_elements<kLoad, kBytes, kRows, 2>(args, row, token); break;
      case 3: dot_elements<kLoad, kBytes, kRows, 3>(args, row, token); break;
      default: dot_elements<kLoad, kBytes, kRows, 4>(args, row, token); break;
    }
  }
}

template <Vector (*kLoad)(const std::byte*), int kBytes>
void multiply_elements(const RowArgs& args) {
  int64_t row = 0;
  if (args.tokens == 1)
    for (; row + 4 <= args.count; row += 4) dot_elements<kLoad, kBytes, 4, 1>(args, row, 0);
  for (; row + 2 <= args.count; row += 2) dot_element_rows<kLoad, kBytes, 2>(args, row);
  for (; row < args.count; ++row) dot_element_rows<kLoad, kBytes, 1>(args, row);
}

template <int kCount>
struct DotSink {
  const int16_t* values[kCount];
  const float* sums16[kCount];
  const float* sums32[kCount];
  Floats sum[2][kCount];
  float low[kCount];  // minimum times the sum of the activations, for blocks of 32

  void minimum(float m) {
    for (int t = 0; t < kCount; ++t) low[t] += m * *sums32[t];
  }
  void minima32(Floats m) {
    for (int t = 0; t < kCount; ++t) sum[0][t] += m * floats_at(sums32[t]);
  }
  void minima16(Floats a, Floats b) {
    for (int t = 0; t < kCount; ++t) {
      sum[0][t] += a * floats_at(sums16[t]);
      sum[1][t] += b * floats_at(sums16[t] + 8);
    }
  }
  template <int kLane>
  void pair(int offset, Words a, Words b, float scale) {
    for (int t = 0; t < kCount; ++t) {
      const Ints first = add_products(Ints{}, a, words_at(values[t] + offset));
      sum[kLane][t] += __builtin_convertvector(add_products(first, b, words_at(values[t] + offset + 16)), Floats) * scale;
    }
  }
  template <int kLane>
  void single(int offset, Words a, float scale) {
    for (int t = 0; t < kCount; ++t)
      sum[kLane][t] += __builtin_convertvector(add_products(Ints{}, a, words_at(values[t] + offset)), Floats) * scale;
  }
  void advance(int64_t elements) {
    for (int t = 0; t < kCount; ++t) values[t] += elements, sums16[t] += elements / 16, sums32[t] += elements / 32;
  }
};

inline float sum_of(Floats v) {
  float sum = 0;
  for (int i = 0; i < 8; ++i) sum += v[i];
  return sum;
}

template <typename Format, int kCount>
void dot_blocks(const RowArgs& args, int64_t row, int64_t token) {
  const RoundedRows& input = args.rounded;
  const int64_t groups = (args.columns + kRoundGroup - 1) / kRoundGroup;
  DotSink<kCount> sink;
  for (int t = 0; t < kCount; ++t) {
    sink.values[t] = input.values + (token + t) * args.columns;
    sink.sums16[t] = input.sums16 + (token + t) * (args.columns / 16);
    sink.sums32[t] = input.sums32 + (token + t) * (args.columns / 32);
  }
  const auto* block = reinterpret_cast<const uint8_t*>(args.rows + row * args.row_bytes);
  Floats total[kCount] = {};
  float low[kCount] = {};
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t blocks = std::min(kRoundGroup, args.columns - group * kRoundGroup) / Format::kSize;
    for (int t = 0; t < kCount; ++t) sink.sum[0][t] = sink.sum[1][t] = Floats{}, sink.low[t] = 0;
    int64_t b = 0;
    for (; b + 2 <= blocks; b += 2, block += 2 * Format::kBytes) {
      Format::template walk<0>(block, sink), sink.advance(Format::kSize);
      Format::template walk<1>(block + Format::kBytes, sink), sink.advance(Format::kSize);
    }
    for (; b < blocks; ++b, block += Format::kBytes) Format::template walk<0>(block, sink), sink.advance(Format::kSize);
    for (int t = 0; t < kCount; ++t) {
      const float scale = input.scale[(token + t) * groups + group];
      total[t] += (sink.sum[0][t] + sink.sum[1][t]) * scale;
      low[t] += sink.low[t] * scale;
    }
  }
  for (int t = 0; t < kCount; ++t) args.output[(token + t) * args.stride + row] = sum_of(total[t]) + low[t];
}

template <typename Format>
void multiply_blocks(const RowArgs& args) {
  for (int64_t row = 0; row < args.count; ++row) {
    for (int64_t token = 0; token < args.tokens; token += kPassTokens) {
      switch (args.tokens - token) {
        case 1: dot_blocks<Format, 1>(args, row, token); break;
        case 2: dot_blocks<Format, 2>(args, row, token); break;
        case 3: dot_blocks<Format, 3>(args, row, token); break;
        default: dot_blocks<Format, 4>(args, row, token); break;
      }
    }
  }
}

void multiply_rows(RowFormat format, const RowArgs& args) {
  switch (format) {
    case RowFormat::kF32: return multiply_elements<load_f32, 4>(args);
    case RowFormat::kF16: return multiply_elements<load_f16, 2>(args);
    case RowFormat::kBf16: return multiply_elements<load_bf16, 2>(args);
    case RowFormat::kQ4_0: return multiply_blocks<Q4_0>(args);
    case RowFormat::kQ4_1: return multiply_blocks<Q4_1>(args);
    case RowFormat::kQ5_0: return multiply_blocks<Q5_0>(args);
    case RowFormat::kQ5_1: return multiply_blocks<Q5_1>(args);
    case RowFormat::kQ8_0: return multiply_blocks<Q8_0>(args);
    case RowFormat::kQ2K: return multiply_blocks<Q2K>(args);
    case RowFormat::kQ3K: return multiply_blocks<Q3K>(args);
    case RowFormat::kQ4K: return multiply_blocks<Q4K>(args);
    case RowFormat::kQ5K: return multiply_blocks<Q5K>(args);
    case RowFormat::kQ6K: return multiply_blocks<Q6K>(args);
  }
}

struct DecodeSink {
  float* out;
  alignas(32) float low[16] = {};  // minimum of each 16

  void minimum(float m) { low[0] = low[1] = m; }
  void minima32(Floats m) {
    for (int i = 0; i < 8; ++i) low[2 * i] = low[2 * i + 1] = m[i];
  }
  void minima16(Floats a, Floats b) { std::memcpy(low, &a, sizeof a), std::memcpy(low + 8, &b, sizeof b); }
  template <int kLane>
  void single(int offset, Words a, float scale) {
    using Half = int16_t __attribute__((vector_size(16)));
    Half halves[2];
    std::memcpy(halves, &a, sizeof a);
    for (int i = 0; i < 2; ++i) {
      const Floats value = __builtin_convertvector(__builtin_convertvector(halves[i], Ints), Floats) * scale + low[offset / 16];
      std::memcpy(out + offset + 8 * i, &value, sizeof value);
    }
  }
  template <int kLane>
  void pair(int offset, Words a, Words b, float scale) {
    single<kLane>(offset, a, scale);
    single<kLane>(offset + 16, b, scale);
  }
};

template <typename Format>
void decode_blocks(const std::byte* row, int64_t columns, float* out) {
  DecodeSink sink{out};
  const auto* block = reinterpret_cast<const uint8_t*>(row);
  for (int64_t k = 0; k < columns; k += Format::kSize, block += Format::kBytes, sink.out += Format::kSize)
    Format::template walk<0>(block, sink);
}

template <Vector (*kLoad)(const std::byte*), int kBytes>
void decode_elements(const std::byte* row, int64_t columns, float* out) {
  int64_t k = 0;
  for (; k + kWidth <= columns; k += kWidth) store(out + k, kLoad(row + k * kBytes));
  std::byte tail[kWidth * kBytes] = {};
  std::memcpy(tail, row + k * kBytes, static_cast<size_t>((columns - k) * kBytes));
  const Vector last = kLoad(tail);
  for (int64_t i = 0; k + i < columns; ++i) out[k + i] = last[i];
}

void decode_row(RowFormat format, const std::byte* row, int64_t columns, float* out) {
  switch (format) {
    case RowFormat::kF32: return decode_elements<load_f32, 4>(row, columns, out);
    case RowFormat::kF16: return decode_elements<load_f16, 2>(row, columns, out);
    case RowFormat::kBf16: return decode_elements<load_bf16, 2>(row, columns, out);
    case RowFormat::kQ4_0: return decode_blocks<Q4_0>(row, columns, out);
    case RowFormat::kQ4_1: return decode_blocks<Q4_1>(row, columns, out);
    case RowFormat::kQ5_0: return decode_blocks<Q5_0>(row, columns, out);
    case RowFormat::kQ5_1: return decode_blocks<Q5_1>(row, columns, out);
    case RowFormat::kQ8_0: return decode_blocks<Q8_0>(row, columns, out);
    case RowFormat::kQ2K: return decode_blocks<Q2K>(row, columns, out);
    case RowFormat::kQ3K: return decode_blocks<Q3K>(row, columns, out);
    case RowFormat::kQ4K: return decode_blocks<Q4K>(row, columns, out);
    case RowFormat::kQ5K: return decode_blocks<Q5K>(row, columns, out);
    case RowFormat::kQ6K: return decode_blocks<Q6K>(row, columns, out);
  }
}

void round_token(const float* input, int64_t columns, int16_t* values, float* scale, float* sums16, float* sums32) {
  constexpr float kSteps = 32767.0f, kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  for (int64_t k = 0; k < columns; k += kRoundGroup) {
    const int64_t count = std::min(kRoundGroup, columns - k);
    const RoundingScale unit = rounding_scale(largest_magnitude(input + k, count), kSteps);
    *scale++ = unit.scale;
    for (int64_t i = 0; i < count; i += 16) {
      Floats whole[2] = {};
      for (int h = 0; h < 2 && unit.is_finite; ++h) whole[h] = (floats_at(input + k + i + 8 * h) * unit.inverse + kShift) - kShift;
      for (int j = 0; j < 16; ++j) values[k + i + j] = static_cast<int16_t>(whole[j / 8][j % 8]);
      *sums16++ = sum_of(whole[0] + whole[1]);
    }
  }
  for (int64_t i = 0; i < columns / 32; ++i) sums32[i] = sums16[2 * i - columns / 16] + sums16[2 * i + 1 - columns / 16];
}

constexpr RowKernels kRowTable = {multiply_rows, decode_row, round_token};

}  // namespace
}  // namespace tq::cpu
