// Blocks of 256 in sub-blocks of 16 or 32, whose scales are themselves quantized.
#include "codec/ggml/blocks.h"

namespace tq::ggml {
namespace {

constexpr int64_t kSize = 256;

// The twelve bytes of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima.
struct ScaleMin {
  int scale, minimum;
};

ScaleMin scale_min(const uint8_t* packed, int i) {
  if (i < 4) return {packed[i] & 63, packed[i + 4] & 63};
  return {(packed[i + 4] & 15) | ((packed[i - 4] >> 6) << 4), (packed[i + 4] >> 4) | ((packed[i] >> 6) << 4)};
}

// The twelve bytes of Q3_K: sixteen 6-bit scales, four low bits and two high bits apart, offset by 32.
int q3_scale(const uint8_t* packed, int i) {
  const int low = (i < 8 ? packed[i] : packed[i - 8] >> 4) & 15;
  const int high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
  return (low | high << 4) - 32;
}

}  // namespace

void decode_q2_k(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 84, out += kSize) {
    const uint8_t* quants = data + 16;
    const float d = read_f16(data + 80), m = read_f16(data + 82);
    for (int sub = 0; sub < 16; ++sub) {
      const float scale = d * static_cast<float>(data[sub] & 15), minimum = m * static_cast<float>(data[sub] >> 4);
      const uint8_t* bytes = quants + 32 * (sub / 8) + 16 * (sub % 2);
      const int shift = 2 * (sub / 2 % 4);
      for (int i = 0; i < 16; ++i) out[16 * sub + i] = scale * static_cast<float>(bytes[i] >> shift & 3) - minimum;
    }
  }
}

void decode_q3_k(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 110, out += kSize) {
    const uint8_t* quants = data + 32;
    const float d = read_f16(data + 108);
    for (int sub = 0; sub < 16; ++sub) {
      const float scale = d * static_cast<float>(q3_scale(data + 96, sub));
      const uint8_t* bytes = quants + 32 * (sub / 8) + 16 * (sub % 2);
      const uint8_t* high = data + 16 * (sub % 2);
      const int shift = 2 * (sub / 2 % 4);
      for (int i = 0; i < 16; ++i) {
        const int value = (bytes[i] >> shift & 3) - ((high[i] >> (sub / 2) & 1) ? 0 : 4);
        out[16 * sub + i] = scale * static_cast<float>(value);
      }
    }
  }
}

void decode_q4_k(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 144, out += kSize) {
    const float d = read_f16(data), m = read_f16(data + 2);
    for (int sub = 0; sub < 8; ++sub) {
      const ScaleMin both = scale_min(data + 4, sub);
      const float scale = d * static_cast<float>(both.scale), minimum = m * static_cast<float>(both.minimum);
      const uint8_t* bytes = data + 16 + 32 * (sub / 2);
      const int shift = 4 * (sub % 2);
      for (int i = 0; i < 32; ++i) out[32 * sub + i] = scale * static_cast<float>(bytes[i] >> shift & 15) - minimum;
    }
  }
}

void decode_q5_k(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 176, out += kSize) {
    const float d = read_f16(data), m = read_f16(data + 2);
    const uint8_t* high = data + 16;
    for (int sub = 0; sub < 8; ++sub) {
      const ScaleMin both = scale_min(data + 4, sub);
      const float scale = d * static_cast<float>(both.scale), minimum = m * static_cast<float>(both.minimum);
      const uint8_t* bytes = data + 48 + 32 * (sub / 2);
      const int shift = 4 * (sub % 2);
      for (int i = 0; i < 32; ++i) {
        const int value = (bytes[i] >> shift & 15) | ((high[i] >> sub & 1) << 4);
        out[32 * sub + i] = scale * static_cast<float>(value) - minimum;
      }
    }
  }
}

void decode_q6_k(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 210, out += kSize) {
    const float d = read_f16(data + 208);
    for (int sub = 0; sub < 8; ++sub) {  // 32 elements: two scales
      const uint8_t* low = data + 64 * (sub / 4) + 32 * (sub % 2);
      const uint8_t* high = data + 128 + 32 * (sub / 4);
      const int low_shift = 4 * (sub % 4 / 2), high_shift = 2 * (sub % 4);
      for (int half = 0; half < 2; ++half) {
        const float scale = d * static_cast<float>(static_cast<int8_t>(data[192 + 2 * sub + half]));
        for (int i = 16 * half; i < 16 * half + 16; ++i) {
          const int value = (low[i] >> low_shift & 15) | ((high[i] >> high_shift & 3) << 4);
          out[32 * sub + i] = scale * static_cast<float>(value - 32);
        }
      }
    }
  }
}

// d, 256 int8, sums of sixteen (for products).
void decode_q8_k(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 292, out += kSize) {
    float d;
    std::memcpy(&d, data, sizeof d);
    for (int i = 0; i < kSize; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(data[4 + i]));
  }
}

}  // namespace tq::ggml
