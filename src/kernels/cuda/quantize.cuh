// Activations rotated and rounded to columns of bits.
#pragma once

#include "kernels/cuda/band_decode.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/half_terms.cuh"
#include "kernels/cuda/plane_types.h"
#include "kernels/cuda/prologue.cuh"

namespace tq::cuda {

constexpr int kQuantizeWarps = 8;

// Bit i of byte b of (x, y) goes to bit b of byte i of (x, y): the bytes of x come first.
TQ_HOST_DEVICE inline void transpose_bits(uint32_t& x, uint32_t& y) {
  uint32_t swap = (x ^ (x >> 7)) & 0x00aa00aau;
  x ^= swap ^ (swap << 7);
  swap = (y ^ (y >> 7)) & 0x00aa00aau;
  y ^= swap ^ (swap << 7);
  swap = (x ^ (x >> 14)) & 0x0000ccccu;
  x ^= swap ^ (swap << 14);
  swap = (y ^ (y >> 14)) & 0x0000ccccu;
  y ^= swap ^ (swap << 14);
  const uint32_t low = (x & 0x0f0f0f0fu) | ((y & 0x0f0f0f0fu) << 4);
  y = (y & 0xf0f0f0f0u) | ((x >> 4) & 0x0f0f0f0fu);
  x = low;
}

// Byte i of word l of each of a quad's lanes l becomes byte l of word i.
__device__ __forceinline__ void transpose_bytes(uint32_t (&word)[4]) {
  const uint32_t a = __byte_perm(word[0], word[1], 0x5140), b = __byte_perm(word[2], word[3], 0x5140);
  const uint32_t c = __byte_perm(word[0], word[1], 0x7362), d = __byte_perm(word[2], word[3], 0x7362);
  word[0] = __byte_perm(a, b, 0x5410), word[1] = __byte_perm(a, b, 0x7632);
  word[2] = __byte_perm(c, d, 0x5410), word[3] = __byte_perm(c, d, 0x7632);
}

// Word r of lane l of a quad goes to word l of lane r.
__device__ __forceinline__ void transpose_quad(uint32_t (&word)[4], int lane) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const bool is_high = lane & step;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      const uint32_t got = __shfl_xor_sync(0xffffffffu, is_high ? word[i] : word[i + step], step);
      (is_high ? word[i] : word[i + step]) = got;
    }
  }
}

// Byte i of the word of lane l of a quad becomes byte l of the word of lane i.
__device__ __forceinline__ uint32_t trade_bytes(uint32_t word, int lane) {
  word = __byte_perm(word, __shfl_xor_sync(0xffffffffu, word, 1), lane & 1 ? 0x3715 : 0x6240);
  return __byte_perm(word, __shfl_xor_sync(0xffffffffu, word, 2), lane & 2 ? 0x3276 : 0x5410);
}

// 256 columns of one token, 8 a lane: value i is column 8 * lane + i of the group.
struct Group {
  float value[8];

  // Orthonormal, on blocks of `size`.
  __device__ void hadamard(int size, int lane) {
    hadamard_sums(value, size, lane);
    const float scale = rsqrtf(static_cast<float>(size));
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= scale;
  }

  // Rounds as the CPU's PlaneInput does, to the bits of the form. words: of the group; returns the scale, and the sum of the rounded
  // values. kMany: words of bytes.
  template <bool kMany = false>
  __device__ float round(const Form& form, uint32_t* words, int token, int lane, int& sum) const {
    const float largest = this->largest();
    const float steps = form.bits == 16 ? 127.0f * 128.0f : static_cast<float>((1 << (form.bits - 1)) - 1);
    const float inverse = largest > 0.0f ? steps / largest : 0.0f;
    constexpr float kMagic = 12582912.0f;  // adding it rounds to the nearest integer, which is then in the lowest bits
    int rounded[8];
    sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) rounded[i] = __float_as_int(__fadd_rn(__fmul_rn(value[i], inverse), kMagic)), sum += rounded[i];
    sum -= 8 * __float_as_int(kMagic);
    sum = __reduce_add_sync(0xffffffffu, sum);
    if constexpr (kMany) store_bytes(form, words, token, lane, rounded);
    else store(form, words, token, lane, rounded);
    return largest / steps;
  }

  // Magnitude of the warp's largest value; NaN, if there is one: its scale makes NaN of the outputs.
  __device__ float largest() const {
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) most = max(most, __float_as_uint(fabsf(value[i])));
    return __uint_as_float(__reduce_max_sync(0xffffffffu, most));
  }

  // Rounds to halves as band_half() has them, times a power of two. words: of the group. Returns the lane's sum of the rounded values.
  __device__ float store_halves(int tokens, uint32_t* words, int token, int lane, float power) const {
    float sum = 0.0f;
    uint32_t half[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float weight = power_of_two(band_exponent(i));
      const __half rounded = __float2half_rn(value[i] * (power * weight));
      sum += __half2float(rounded) / weight;
      half[i] = __half_as_ushort(rounded);
    }
    // A lane's columns lie in eight steps' halves, one of eight values each; two lanes trade, so that each stores two values at a time.
    const bool is_odd = lane & 2;
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const uint32_t got = __shfl_xor_sync(0xffffffffu, is_odd ? half[i] : half[i + 1], 2);
      const uint32_t pair = is_odd ? got | half[i + 1] << 16 : half[i] | got << 16;
      words[band_half(tokens, 8 * (lane & ~2) + i + (is_odd ? 1 : 0), token) / 2] = pair;
    }
    return sum;
  }

  // Times `factor`, to columns `first` .. + 7 of a row of `columns`, in the order of half_place().
  __device__ void store_rounded(__half* row, int first, int columns, float factor) const {
    if (columns % 8 == 0) {
      uint32_t pair[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) pair[i] = bits_of(__halves2half2(to_half(factor * value[2 * i]), to_half(factor * value[2 * i + 1])));
      if (first < columns) *reinterpret_cast<uint4*>(row + half_place(first, columns)) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (first + i < columns) row[first + i] = to_half(factor * value[i]);
  }
  __device__ void store(float* row, int first, int columns, float factor) const {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (first + i < columns) row[first + i] = factor * value[i];
  }

  // A lane writes words of two steps: of the bytes of its quad, which has them for 32 columns.
  __device__ static void store_bytes(const Form& form, uint32_t* words, int token, int lane, const int (&rounded)[8]) {
    const int half = lane / 16, word = lane / 4 % 4, step = lane % 4;
#pragma unroll
    for (int byte = 0; byte < 2; ++byte) {
      if (8 * byte >= form.bits) break;
      const uint32_t pick = byte ? 0x51 : 0x40;
      const uint32_t carry = byte ? 128 : 0;  // the lower byte has a sign
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t value[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) value[k] = (static_cast<uint32_t>(rounded[4 * i + k]) << (form.bits == 16 && k % 2 == 0)) + carry;
        const uint32_t bytes = __byte_perm(__byte_perm(value[0], value[1], pick), __byte_perm(value[2], value[3], pick), 0x5410);
        words[many_word(form, step + 4 * i, half, byte, token) + word] = trade_bytes(bytes, lane);
      }
    }
  }

  // A lane of a quad writes the words of 4 bits: those of 8 columns of each of its neighbours.
  __device__ static void store(const Form& form, uint32_t* words, int token, int lane, const int (&rounded)[8]) {
    uint32_t bytes[4] = {};  // bits 0..3, 4..7, 8..11, 12..15
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t pick = half ? 0x5151 : 0x4040;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t a = __byte_perm(static_cast<uint32_t>(rounded[4 * i]), static_cast<uint32_t>(rounded[4 * i + 1]), pick);
        const uint32_t b = __byte_perm(static_cast<uint32_t>(rounded[4 * i + 2]), static_cast<uint32_t>(rounded[4 * i + 3]), pick);
        bytes[2 * half + i] = __byte_perm(a, b, 0x5410);
      }
      transpose_bits(bytes[2 * half], bytes[2 * half + 1]);
    }
    transpose_quad(bytes, lane);
    transpose_bytes(bytes);
    const int quarter = lane % 4, word = lane / 4, products = form.products();
    if (4 * quarter >= form.bits) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int bit = 4 * quarter + i, column = token + form.tokens * (bit / products), product = bit % products;
      if (bit >= form.bits) break;
      words[activation_word(product, column, word)] = bytes[i];
    }
  }
};

// What stands before a Group, read in two steps so that everything is under way at a time: the input after its prologue, but for the factor
// of a norm, with its signs turned, in the rotated basis; zeros behind the last column.
struct GroupInput {
  float value[8], other[8];
  uint32_t signs;

  // What does not depend on the kernel before.
  __device__ void read_weights(const QuantizeArgs& args, int group, int lane) {
    const int first = group * kGroupColumns + 8 * lane;
    signs = first < args.columns ? args.sign[first / 8] : 0u;
    if (args.input.prologue == Prologue::kNorm) read(args.input.other, first, args.columns, other);
  }
  __device__ void read_input(const QuantizeArgs& args, int64_t token, int group, int lane) {
    const int first = group * kGroupColumns + 8 * lane;
    read(args.input.input + token * args.input.stride, first, args.columns, value);
    if (args.input.prologue == Prologue::kGated) read(args.input.other + token * args.input.stride, first, args.columns, other);
  }
  static __device__ void read(const float* from, int first, int columns, float (&to)[8]) {
    if (first + 8 <= columns && reinterpret_cast<uintptr_t>(from) % sizeof(float4) == 0) {
      const auto* vectors = reinterpret_cast<const float4*>(from + first);
      const float4 low = __ldcg(vectors), high = __ldcg(vectors + 1);
      to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
      to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) to[i] = first + i < columns ? __ldcg(from + first + i) : 0.0f;
    }
  }
  // squares: this lane's, of the input
  __device__ Group rotate(const QuantizeArgs& args, int lane, float& squares) const {
    Group group;
    squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) squares = fmaf(value[i], value[i], squares), group.value[i] = value[i];
    if (args.input.prologue == Prologue::kNorm) {
#pragma unroll
      for (int i = 0; i < 8; ++i) group.value[i] *= other[i] + args.input.offset;
    } else if (args.input.prologue == Prologue::kGated) {
#pragma unroll
      for (int i = 0; i < 8; ++i)
        group.value[i] = (args.input.gate_kind == 0 ? silu(value[i]) : activate_rare(args.input.gate_kind, value[i])) * other[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) group.value[i] = signs >> i & 1 ? -group.value[i] : group.value[i];
    group.hadamard(args.hadamard, lane);
    return group;
  }
};

}  // namespace tq::cuda
