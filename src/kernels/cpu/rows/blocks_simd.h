// GGUF's block formats as vectors of sixteen 16-bit quants, for products and for decoding. Include once per instruction set.
//
// A format is a struct with kSize (elements), kBytes (of a block) and walk(block, sink), which hands the block to the sink in order of its
// sub-blocks: `minima` and `minimum` before the quants, then `pair` (32 elements of one scale) or `single` (16 elements).
// element = scale * quant + minimum. kLane 0 and 1 alternate, so that two sums can be independent.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/float16.h"
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace tq::cpu {
namespace {

using Bytes = uint8_t __attribute__((vector_size(16)));
using Words = int16_t __attribute__((vector_size(32)));
using Floats = float __attribute__((vector_size(32)));
using Ints = int32_t __attribute__((vector_size(32)));

inline Words widen(const uint8_t* data) {
  Bytes bytes;
  std::memcpy(&bytes, data, sizeof bytes);
  return __builtin_convertvector(bytes, Words);
}

inline Words widen_signed(const uint8_t* data) {
  using Signed = int8_t __attribute__((vector_size(16)));
  Signed bytes;
  std::memcpy(&bytes, data, sizeof bytes);
  return __builtin_convertvector(bytes, Words);
}

inline Floats floats_of(const uint8_t* bytes) {  // 8 bytes
  using Eight = uint8_t __attribute__((vector_size(8)));
  Eight eight;
  std::memcpy(&eight, bytes, sizeof eight);
  return __builtin_convertvector(__builtin_convertvector(eight, Ints), Floats);
}

inline float half_at(const uint8_t* data) {
  uint16_t bits;
  std::memcpy(&bits, data, sizeof bits);
#if defined(__F16C__)
  return _cvtsh_ss(bits);
#else
  return f16_to_float(bits);
#endif
}

inline uint32_t word_at(const uint8_t* data) {
  uint32_t word;
  std::memcpy(&word, data, sizeof word);
  return word;
}

// Bit i of the low half of `bits` as 16 in element i.
inline Words fifth_bits(uint32_t bits) {
  const Words place = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768};
  const Words all = Words{} + static_cast<int16_t>(bits);
  return ((all & place) == place) & 16;
}

struct Q8_0 {
  static constexpr int64_t kSize = 32, kBytes = 34;
  template <int kLane, typename Sink>
  static void walk(const uint8_t* block, Sink& sink) {
    sink.template pair<kLane>(0, widen_signed(block + 2), widen_signed(block + 18), half_at(block));
  }
};

struct Q4_0 {
  static constexpr int64_t kSize = 32, kBytes = 18;
  template <int kLane, typename Sink>
  static void walk(const uint8_t* block, Sink& sink) {
    const Words both = widen(block + 2);
    sink.template pair<kLane>(0, (both & 15) - 8, (both >> 4) - 8, half_at(block));
  }
};

struct Q4_1 {
  static constexpr int64_t kSize = 32, kBytes = 20;
  template <int kLane, typename Sink>
  static void walk(const uint8_t* block, Sink& sink) {
    const Words both = widen(block + 4);
    sink.minimum(half_at(block + 2));
    sink.template pair<kLane>(0, both & 15, both >> 4, half_at(block));
  }
};

struct Q5_0 {
  static constexpr int64_t kSize = 32, kBytes = 22;
  template <int kLane, typename Sink>
  static void walk(const uint8_t* block, Sink& sink) {
    const uint32_t high = word_at(block + 2);
    const Words both = widen(block + 6);
    sink.template pair<kLane>(0, ((both & 15) | fifth_bits(high)) - 16, ((both >> 4) | fifth_bits(high >> 16)) - 16, half_at(block));
  }
};

struct Q5_1 {
  static constexpr int64_t kSize = 32, kBytes = 24;
  template <int kLane, typename Sink>
  static void walk(const uint8_t* block, Sink& sink) {
    const uint32_t high = word_at(block + 4);
    const Words both = widen(block + 8);
    sink.minimum(half_at(block + 2));
    sink.template pair<kLane>(0, (both & 15) | fifth_bits(high), (both >> 4) | fifth_bits(high >> 16), half_at(block));
  }
};

// Eight scales and eight minima of 6 bits in twelve bytes (Q4_K, Q5_K).
struct ScalesMinima {
  alignas(32) float scale[8];
  Floats minima;  // negative

  ScalesMinima(const uint8_t* block) {
    constexpr uint32_t kSix = 0x3f3f3f3f, kFour = 0x0f0f0f0f, kTwo = 0x03030303;
    const uint32_t a = word_at(block + 4), b = word_at(block + 8), c = word_at(block + 12);
    const uint32_t words[4] = {a & kSix, (c & kFour) | (a >> 6 & kTwo) << 4, b & kSix, (c >> 4 & kFour) | (b >> 6 & kTwo) << 4};
    uint8_t bytes[16];
    std::memcpy(bytes, words, sizeof bytes);
    const Floats scales = floats_of(bytes) * half_at(block);
    std::memcpy(scale, &scales, sizeof scale);
    minima = floats_of(bytes + 8) * -half_at(block + 2);
  }
};

struct Q4K {
  static constexpr int64_t kSize = 256, kBytes = 144;
  template <int, typename Sink>
  static void walk(const uint8_t* block, Sink& sink) {
    const ScalesMinima both(block);
    sink.minima32(both.minima);
    for (int i = 0; i < 4; ++i) {
      const Words low = widen(block + 16 + 32 * i), high = widen(block + 32 + 32 * i);
      sink.template pair<0>(64 * i, low & 15, high & 15, both.scale[2 * i]);
      sink.template pair<1>(64 * i + 32, low >> 4, high >> 4, both.scale[2 * i + 1]);
    }
  }
};

struct Q5K {
  static constexpr int64_t kSize = 256, kBytes = 176;
  template <int, typename Sink>
  static void walk(const uint8_t* block, Sink& sink) {
    const ScalesMinima both(block);
    sink.minima32(both.minima);
    Words fifth[2] = {widen(block + 16), widen(block + 32)};
    for (int i = 0; i < 4; ++i) {
      const Words low = widen(block + 48 + 32 * i), high = widen(block + 64 + 32 * i);
      sink.template pair<0>(64 * i, (low & 15) | (fifth[0] & 1) << 4, (high & 15) | (fifth[1] & 1) << 4, both.scale[2 * i]);
      sink.template pair<1>(64 * i + 32, (low >> 4) | (fifth[0] & 2) << 3, (high >> 4) | (fifth[1] & 2) << 3, both.scale[2 * i + 1]);
      for (Words& each : fifth) each >>= 2;
    }
  }
};

struct Q6K {
  static constexpr int64_t kSize = 256, kBytes = 210;
  template <int, typename Sink>
  static void walk(const uint8_t* block, Sink& sink) {
    const float d = half_at(block + 208);
    float scale[16];
    for (int i = 0; i < 16; ++i) scale[i] = d * static_cast<float>(static_cast<int8_t>(block[192 + i]));
    for (int half = 0; half < 2; ++half) {
      for (int part = 0; part < 2; ++part) {
        const Words a = widen(block + 64 * half + 16 * part), b = widen(block + 64 * half + 32 + 16 * part);
        const Words high = widen(block + 128 + 32 * half + 16 * part);
        const float* s = scale + 8 * half + part;
        const int first = 128 * half + 16 * part;
        sink.template single<0>(first, ((a & 15) | (high & 3) << 4) - 32, s[0]);
        sink.template single<1>(first + 32, ((b & 15) | (high & 12) << 2) - 32, s[2]);
        sink.template single<0>(first + 64, ((a >> 4) | (high & 48)) - 32, s[4]);
        sink.template single<1>(first + 96, ((b >> 4) | (high >> 2 & 48)) - 32, s[6]);
      }
    }
  }
};

struct Q2K {
  static constexpr int64_t kSize = 256, kBytes = 84;
  template <int, typename Sink>
  static void walk(const uint8_t* block, Sink& sink) {
    const float d = half_at(block + 80), m = half_at(block + 82);
    uint8_t low[16], high[16];
    for (int i = 0; i < 16; ++i) low[i] = block[i] & 15, high[i] = block[i] >> 4;
    const Floats scales[2] = {floats_of(low) * d, floats_of(low + 8) * d};
    float scale[16];
    std::memcpy(scale, scales, sizeof scale);
    sink.minima16(floats_of(high) * -m, floats_of(high + 8) * -m);
    for (int half = 0; half < 2; ++half) {
      for (int part = 0; part < 2; ++part) {
        const Words four = widen(block + 16 + 32 * half + 16 * part);
        const float* s = scale + 8 * half + part;
        const int first = 128 * half + 16 * part;
        sink.template single<0>(first, four & 3, s[0]);
        sink.template single<1>(first + 32, four >> 2 & 3, s[2]);
        sink.template single<0>(first + 64, four >> 4 & 3, s[4]);
        sink.template single<1>(first + 96, four >> 6, s[6]);
      }
    }
  }
};

struct Q3K {
  static constexpr int64_t kSize = 256, kBytes = 110;
  template <int, typename Sink>
  static void walk(const uint8_t* block, Sink& sink) {
    constexpr uint32_t kFour = 0x0f0f0f0f, kTwo = 0x03030303;
    const uint32_t a = word_at(block + 96), b = word_at(block + 100), c = word_at(block + 104);
    const uint32_t words[4] = {(a & kFour) | (c & kTwo) << 4, (b & kFour) | (c >> 2 & kTwo) << 4, (a >> 4 & kFour) | (c >> 4 & kTwo) << 4,
                               (b >> 4 & kFour) | (c >> 6 & kTwo) << 4};
    uint8_t bytes[16];
    std::memcpy(bytes, words, sizeof bytes);
    const float d = half_at(block + 108);
    const Floats scales[2] = {(floats_of(bytes) - 32.0f) * d, (floats_of(bytes + 8) - 32.0f) * d};
    float scale[16];
    std::memcpy(scale, scales, sizeof scale);
    for (int part = 0; part < 2; ++part) {
      Words high = widen(block + 16 * part);
      for (int half = 0; half < 2; ++half, high >>= 4) {
        const Words four = widen(block + 32 + 32 * half + 16 * part);
        const float* s = scale + 8 * half + part;
        const int first = 128 * half + 16 * part;
        sink.template single<0>(first, ((four & 3) | (high & 1) << 2) - 4, s[0]);
        sink.template single<1>(first + 32, ((four >> 2 & 3) | (high & 2) << 1) - 4, s[2]);
        sink.template single<0>(first + 64, ((four >> 4 & 3) | (high & 4)) - 4, s[4]);
        sink.template single<1>(first + 96, ((four >> 6) | (high >> 1 & 4)) - 4, s[6]);
      }
    }
  }
};

}  // namespace
}  // namespace tq::cpu
