// Include once per instruction set after defining TQ_SIMD_WIDTH; compile with -ffp-contract=off.
#pragma once

#include <cmath>

#include "base/rounding_scale.h"
#include "codec/grid/grid.h"
#include "kernels/cpu/plane/plane_input.h"
#include "kernels/cpu/plane/plane_kernels.h"
#include "kernels/cpu/simd/vectors_simd.h"

namespace tq::cpu {
namespace {

using Mask = int32_t __attribute__((vector_size(TQ_SIMD_WIDTH * 4)));

// Lane i gets lane i ^ kHalf.
template <int kHalf>
Vector swap_lanes(Vector v) {
#if TQ_SIMD_WIDTH == 16
  return __builtin_shufflevector(v, v, 0 ^ kHalf, 1 ^ kHalf, 2 ^ kHalf, 3 ^ kHalf, 4 ^ kHalf, 5 ^ kHalf, 6 ^ kHalf, 7 ^ kHalf, 8 ^ kHalf,
                                 9 ^ kHalf, 10 ^ kHalf, 11 ^ kHalf, 12 ^ kHalf, 13 ^ kHalf, 14 ^ kHalf, 15 ^ kHalf);
#elif TQ_SIMD_WIDTH == 8
  return __builtin_shufflevector(v, v, 0 ^ kHalf, 1 ^ kHalf, 2 ^ kHalf, 3 ^ kHalf, 4 ^ kHalf, 5 ^ kHalf, 6 ^ kHalf, 7 ^ kHalf);
#else
  return __builtin_shufflevector(v, v, 0 ^ kHalf, 1 ^ kHalf, 2 ^ kHalf, 3 ^ kHalf);
#endif
}

// One stage of the transform within a vector: a + b in the lower lane of a pair, a - b in the upper.
template <int kHalf>
Vector butterfly(Vector v) {
  Vector sign;
  for (int i = 0; i < kWidth; ++i) sign[i] = i & kHalf ? -1.0f : 1.0f;
  return swap_lanes<kHalf>(v) + v * sign;
}

Vector butterflies(Vector v) {
  v = butterfly<2>(butterfly<1>(v));
  if constexpr (kWidth >= 8) v = butterfly<4>(v);
  if constexpr (kWidth >= 16) v = butterfly<8>(v);
  return v;
}

Vector apply_signs(Vector v, const uint8_t* sign, int64_t column) {
  uint16_t bits = 0;
  std::memcpy(&bits, sign + column / 8, kWidth > 8 ? 2 : 1);
  Mask place;
  for (int i = 0; i < kWidth; ++i) place[i] = 1 << i;
  const Mask is_set = ((Mask{} + (bits >> column % 8)) & place) != 0;
  return is_set ? -v : v;
}

void rotate(float* row, int64_t columns, const uint8_t* sign) {
  const int64_t block = grid::hadamard_block(columns);
  if (block < kWidth) return grid::rotate(row, 1, columns, sign);
  const float scale = 1.0f / std::sqrt(static_cast<float>(block));
  for (int64_t first = 0; first < columns; first += block) {
    float* values = row + first;
    for (int64_t i = 0; i < block; i += kWidth) store(values + i, butterflies(apply_signs(load(values + i), sign, first + i)));
    for (int64_t half = kWidth; half < block; half *= 2)
      for (int64_t group = 0; group < block; group += 2 * half)
        for (int64_t i = group; i < group + half; i += kWidth) {
          const Vector a = load(values + i), b = load(values + i + half);
          store(values + i, a + b);
          store(values + i + half, a - b);
        }
    for (int64_t i = 0; i < block; i += kWidth) store(values + i, load(values + i) * scale);
  }
}

// Nearest whole number, ties to even, for magnitudes below 2^22.
constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23

using Bytes = int8_t __attribute__((vector_size(TQ_SIMD_WIDTH)));

// values * unit.inverse, rounded, as 32 bits in `whole`; their sum.
int32_t round_group(const float* values, int64_t count, const RoundingScale& unit, int32_t* whole) {
  if (!unit.is_finite) {
    std::fill_n(whole, count, 0);
    return 0;
  }
  const float inverse = unit.inverse;
  IntVector sums = {};
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const IntVector rounded = __builtin_convertvector((load(values + i) * inverse + kRounding) - kRounding, IntVector);
    std::memcpy(whole + i, &rounded, sizeof rounded);
    sums += rounded;
  }
  int32_t sum = 0;
  for (int64_t lane = 0; lane < kWidth; ++lane) sum += sums[lane];
  for (; i < count; ++i) {
    whole[i] = static_cast<int32_t>((values[i] * inverse + kRounding) - kRounding);
    sum += whole[i];
  }
  return sum;
}

void store_bytes(const int32_t* whole, int64_t count, int8_t* out) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    IntVector words;
    std::memcpy(&words, whole + i, sizeof words);
    const Bytes bytes = __builtin_convertvector(words, Bytes);
    std::memcpy(out + i, &bytes, sizeof bytes);
  }
  for (; i < count; ++i) out[i] = static_cast<int8_t>(whole[i]);
}

float round_planes(const RoundArgs& args) {
  const float steps = args.low ? 127.0f * 128.0f : 127.0f;
  double total = 0;
  for (int64_t begin = 0, group = 0; begin < args.columns; begin += kGroupColumns, ++group) {
    const int64_t count = std::min(kGroupColumns, args.columns - begin);
    const float* values = args.rotated + begin;
    const RoundingScale unit = rounding_scale(largest_magnitude(values, count), steps);
    const float scale = unit.scale;
    int32_t whole[kGroupColumns];
    const int32_t sum = round_group(values, count, unit, whole);
    if (args.low) {
      for (int64_t i = 0; i < count; ++i) {
        const int32_t top = (whole[i] + 64) >> 7;  // in [-127, 127]
        args.high[begin + i] = static_cast<int8_t>(top);
        args.low[begin + i] = static_cast<int8_t>(whole[i] - top * 128);
      }
      args.low_scale[group] = scale;
    } else {
      store_bytes(whole, count, args.high + begin);
    }
    args.high_scale[group] = args.low ? scale * 128.0f : scale;
    total += static_cast<double>(scale) * sum;
  }
  return static_cast<float>(total);
}

// Part i of the window holds every kRate-th plane row, so that the rows' values lie side by side.
constexpr int64_t kPart = kFilterRows + grid::kMaxWindow + 16;

template <int kRate>
void split(const float* z, int64_t slots, float (*parts)[kPart]) {
  for (int64_t slot = 0; slot < slots; ++slot)
    for (int part = 0; part < kRate; ++part) parts[part][slot] = z[slot * kRate + part];
}

void split_ring(const FilterArgs& args, int64_t at, int64_t count, float (*parts)[kPart]) {
  for (int64_t n = 0; n < count; ++n) {
    parts[n % args.rate][n / args.rate] = args.z[at];
    if (++at == args.plane_rows) at = 0;
  }
}

void split_window(const FilterArgs& args, float (*parts)[kPart]) {
  const int64_t count = (args.rows - 1) * args.rate + args.window, slots = count / args.rate;
  int64_t at = args.newest - args.window + 1;
  const bool is_whole = at >= 0 && at + count <= args.plane_rows;
  while (at < 0) at += args.plane_rows;
  if (!is_whole) return split_ring(args, at, count, parts);
  const float* z = args.z + at;
  switch (args.rate) {
    case 1: split<1>(z, slots, parts); break;
    case 2: split<2>(z, slots, parts); break;
    case 3: split<3>(z, slots, parts); break;
    case 4: split<4>(z, slots, parts); break;
    case 5: split<5>(z, slots, parts); break;
    case 6: split<6>(z, slots, parts); break;
    case 7: split<7>(z, slots, parts); break;
    default: split<8>(z, slots, parts); break;
  }
  for (int64_t n = slots * args.rate; n < count; ++n) parts[n % args.rate][n / args.rate] = z[n];
}

void filter(const FilterArgs& args) {
  float parts[grid::kMaxRate][kPart];
  split_window(args, parts);
  float y[kFilterRows + kWidth];
  double tap_sum = 0;
  for (int64_t j = 0; j < args.window; ++j) tap_sum += args.taps[j];
  for (int64_t r = 0; r < args.rows; r += 4 * kWidth) {
    Vector sum[4] = {};
    for (int64_t j = 0; j < args.window; ++j) {
      const int64_t offset = args.window - 1 - j;
      const float* values = parts[offset % args.rate] + offset / args.rate + r;
      for (int v = 0; v < 4; ++v) sum[v] += args.taps[j] * load(values + v * kWidth);
    }
    for (int v = 0; v < 4 && r + v * kWidth < args.rows; ++v) store(y + r + v * kWidth, sum[v]);
  }
  const float shift = args.sum * static_cast<float>(tap_sum);
  for (int64_t r = 0; r < args.rows; r += kWidth) {
    const int64_t here = std::min<int64_t>(kWidth, args.rows - r);
    uint16_t scale[kWidth] = {};
    std::memcpy(scale, args.row_scale + r, static_cast<size_t>(here) * 2);
    Vector value = load_f16(reinterpret_cast<const std::byte*>(scale)) * (2.0f * load(y + r) - shift);
    if (here == kWidth && !args.bias) store(args.output + r, value);
    else
      for (int64_t i = 0; i < here; ++i) args.output[r + i] = value[i] + (args.bias ? args.bias[r + i] : 0.0f);
  }
}

constexpr PlaneKernels kPlaneTable = {rotate, round_planes, filter};

}  // namespace
}  // namespace tq::cpu
