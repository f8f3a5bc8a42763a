// Blocks whose codes name values out of a short list: IQ4, the ternary TQ types, FP4, one and two bits.
#include "codec/ggml/blocks.h"

namespace tq::ggml {
namespace {

constexpr float kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr float kFp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};  // E2M1, doubled

// Bytes of two codes: the low nibbles first, then the high ones. out: [2 * bytes]
void write_nibbles(float scale, const float* values, const uint8_t* codes, int bytes, float* out) {
  for (int i = 0; i < bytes; ++i) {
    out[i] = scale * values[codes[i] & 15];
    out[i + bytes] = scale * values[codes[i] >> 4];
  }
}

// 2^(e - 128): half of what E8M0 means, for the doubled values.
float half_of_e8m0(uint8_t e) { return std::bit_cast<float>(e < 2 ? uint32_t{0x00200000} << e : static_cast<uint32_t>(e - 1) << 23); }

// Half of an unsigned E4M3 number; the eighth bit is ignored, and NaN is 0.
float half_of_ue4m3(uint8_t x) {
  if (x == 0 || x == 0x7f) return 0;
  const int exponent = x >> 3 & 15, mantissa = x & 7;
  if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-10f;
  const float power = std::bit_cast<float>(static_cast<uint32_t>(exponent - 7 + 127) << 23);
  return (1.0f + static_cast<float>(mantissa) / 8.0f) * power * 0.5f;
}

// Five ternary digits a byte: the byte is their number times 256 / 243, so that a product with a power of three brings a digit to the top.
float digit(uint8_t byte, int place) {
  constexpr int kPowers[5] = {1, 3, 9, 27, 81};
  return static_cast<float>((static_cast<uint8_t>(byte * kPowers[place]) * 3 >> 8) - 1);
}

}  // namespace

void decode_iq4_nl(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 18, out += 32) write_nibbles(read_f16(data), kIq4Values, data + 2, 16, out);
}

// d, the high 2 bits of eight scales, their low 4 bits, the codes.
void decode_iq4_xs(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 136, out += 256) {
    const float d = read_f16(data);
    const int high = data[2] | data[3] << 8;
    for (int sub = 0; sub < 8; ++sub) {
      const int scale = ((data[4 + sub / 2] >> 4 * (sub % 2) & 15) | (high >> 2 * sub & 3) << 4) - 32;
      write_nibbles(d * static_cast<float>(scale), kIq4Values, data + 8 + 16 * sub, 16, out + 32 * sub);
    }
  }
}

// 32 bytes of five digits, 16 bytes of five, 4 bytes of four, d; a digit's place is the slow index in each part.
void decode_tq1_0(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 54) {
    const float d = read_f16(data + 52);
    for (int place = 0; place < 5; ++place)
      for (int i = 0; i < 32; ++i) *out++ = d * digit(data[i], place);
    for (int place = 0; place < 5; ++place)
      for (int i = 32; i < 48; ++i) *out++ = d * digit(data[i], place);
    for (int place = 0; place < 4; ++place)
      for (int i = 48; i < 52; ++i) *out++ = d * digit(data[i], place);
  }
}

void decode_tq2_0(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 66, out += 256) {
    const float d = read_f16(data + 64);
    for (int i = 0; i < 256; ++i) out[i] = d * static_cast<float>((data[32 * (i / 128) + i % 32] >> 2 * (i / 32 % 4) & 3) - 1);
  }
}

void decode_mxfp4(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 17, out += 32) write_nibbles(half_of_e8m0(data[0]), kFp4Values, data + 1, 16, out);
}

// Four scales, then the codes of four times 16 elements.
void decode_nvfp4(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 36, out += 64)
    for (int sub = 0; sub < 4; ++sub) write_nibbles(half_of_ue4m3(data[sub]), kFp4Values, data + 4 + 8 * sub, 8, out + 16 * sub);
}

void decode_q1_0(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 18, out += 128) {
    const float d = read_f16(data);
    for (int i = 0; i < 128; ++i) out[i] = data[2 + i / 8] >> i % 8 & 1 ? d : -d;
  }
}

void decode_q2_0(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 18, out += 64) {
    const float d = read_f16(data);
    for (int i = 0; i < 64; ++i) out[i] = d * static_cast<float>((data[2 + i / 4] >> 2 * (i % 4) & 3) - 1);
  }
}

}  // namespace tq::ggml
