// Blocks of 32: a scale (and a minimum), then the quants; of 4-bit pairs the low nibbles are the first half.
#include "codec/ggml/blocks.h"

namespace tq::ggml {
namespace {

constexpr int64_t kSize = 32;

// The fifth bits of 32 elements.
uint32_t read_high_bits(const uint8_t* data) {
  uint32_t bits;
  std::memcpy(&bits, data, sizeof bits);
  return bits;
}

}  // namespace

void decode_q4_0(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 18, out += kSize) {
    const float d = read_f16(data);
    for (int i = 0; i < 16; ++i) {
      out[i] = d * static_cast<float>((data[2 + i] & 15) - 8);
      out[i + 16] = d * static_cast<float>((data[2 + i] >> 4) - 8);
    }
  }
}

void decode_q4_1(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 20, out += kSize) {
    const float d = read_f16(data), m = read_f16(data + 2);
    for (int i = 0; i < 16; ++i) {
      out[i] = d * static_cast<float>(data[4 + i] & 15) + m;
      out[i + 16] = d * static_cast<float>(data[4 + i] >> 4) + m;
    }
  }
}

void decode_q5_0(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 22, out += kSize) {
    const float d = read_f16(data);
    const uint32_t high = read_high_bits(data + 2);
    for (int i = 0; i < 16; ++i) {
      const int low = (data[6 + i] & 15) | static_cast<int>((high >> i & 1) << 4);
      const int top = (data[6 + i] >> 4) | static_cast<int>((high >> (i + 16) & 1) << 4);
      out[i] = d * static_cast<float>(low - 16);
      out[i + 16] = d * static_cast<float>(top - 16);
    }
  }
}

void decode_q5_1(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 24, out += kSize) {
    const float d = read_f16(data), m = read_f16(data + 2);
    const uint32_t high = read_high_bits(data + 4);
    for (int i = 0; i < 16; ++i) {
      const int low = (data[8 + i] & 15) | static_cast<int>((high >> i & 1) << 4);
      const int top = (data[8 + i] >> 4) | static_cast<int>((high >> (i + 16) & 1) << 4);
      out[i] = d * static_cast<float>(low) + m;
      out[i + 16] = d * static_cast<float>(top) + m;
    }
  }
}

void decode_q8_0(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 34, out += kSize) {
    const float d = read_f16(data);
    for (int i = 0; i < kSize; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(data[2 + i]));
  }
}

// The second half-precision number is d times the sum of the quants, for products; it is not part of the values.
void decode_q8_1(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 36, out += kSize) {
    const float d = read_f16(data);
    for (int i = 0; i < kSize; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(data[4 + i]));
  }
}

}  // namespace tq::ggml
