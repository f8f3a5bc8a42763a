// Blocks of 256 whose elements come in groups of 8 or 4 out of a codebook (IQ1, IQ2, IQ3); signs, where there are any, lie apart.
// The codebooks are those of ggml-common.h, packed as the gguf Python package has them (scripts/oracles/ggml_blocks.py --tables).
#include "codec/ggml/blocks.h"

namespace tq::ggml {
namespace {

constexpr int64_t kSize = 256;
constexpr float kIq1Delta = 0.125f;

#include "codec/ggml/codebooks.inc"

// An entry of 8 elements has 2 bits for each, one of 4 elements 4 bits; these are the values that they name.
constexpr float kIq1Values[4] = {-1, 0, 1, 0};
constexpr float kIq2Values[4] = {0x08, 0x19, 0x2b, 0};
constexpr float kIq3xxsValues[8] = {0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3e};
constexpr float kIq3sValues[8] = {0x01, 0x03, 0x05, 0x07, 0x09, 0x0b, 0x0d, 0x0f};

uint16_t read_u16(const uint8_t* data) {
  uint16_t value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

uint32_t read_u32(const uint8_t* data) {
  uint32_t value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

// Seven signs are stored; the eighth makes the number of minuses even.
uint32_t eight_signs(uint32_t seven) {
  seven &= 127;
  return seven | (static_cast<uint32_t>(std::popcount(seven)) & 1) << 7;
}

void write_iq2(float scale, uint16_t entry, uint32_t signs, float* out) {
  for (int i = 0; i < 8; ++i) {
    const float value = scale * kIq2Values[entry >> 2 * i & 3];
    out[i] = signs >> i & 1 ? -value : value;
  }
}

void write_iq3(float scale, const float* values, uint16_t entry, uint32_t signs, float* out) {
  for (int i = 0; i < 4; ++i) {
    const float value = scale * values[entry >> 4 * i & 7];
    out[i] = signs >> i & 1 ? -value : value;
  }
}

void write_iq1(float scale, uint16_t entry, float delta, float* out) {
  for (int i = 0; i < 8; ++i) out[i] = scale * (kIq1Values[entry >> 2 * i & 3] + delta);
}

}  // namespace

// d, then for each 32 elements four entries and a word of 4 x 7 signs and a 4-bit scale.
void decode_iq2_xxs(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 66, out += kSize) {
    const float d = read_f16(data);
    for (int sub = 0; sub < 8; ++sub) {
      const uint8_t* entries = data + 2 + 8 * sub;
      const uint32_t word = read_u32(entries + 4);
      const float scale = d * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
      for (int i = 0; i < 4; ++i) write_iq2(scale, kIq2xxs[entries[i]], eight_signs(word >> 7 * i), out + 32 * sub + 8 * i);
    }
  }
}

// d, 32 words of 9 bits entry and 7 signs, 16 scales of 4 bits.
void decode_iq2_xs(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 74, out += kSize) {
    const float d = read_f16(data);
    for (int i = 0; i < 32; ++i) {
      const uint16_t word = read_u16(data + 2 + 2 * i);
      const int scale = data[66 + i / 4] >> 4 * (i / 2 % 2) & 15;
      write_iq2(d * (0.5f + static_cast<float>(scale)) * 0.25f, kIq2xs[word & 511], eight_signs(word >> 9), out + 8 * i);
    }
  }
}

// d, 32 low bytes of entries, 32 bytes of signs, 2 high bits of each entry, 16 scales of 4 bits.
void decode_iq2_s(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 82, out += kSize) {
    const float d = read_f16(data);
    for (int i = 0; i < 32; ++i) {
      const int entry = data[2 + i] | (data[66 + i / 4] >> 2 * (i % 4) & 3) << 8;
      const int scale = data[74 + i / 4] >> 4 * (i / 2 % 2) & 15;
      write_iq2(d * (0.5f + static_cast<float>(scale)) * 0.25f, kIq2s[entry], data[34 + i], out + 8 * i);
    }
  }
}

// d, 64 entries, then for each 32 elements a word of 4 x 7 signs and a 4-bit scale.
void decode_iq3_xxs(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 98, out += kSize) {
    const float d = read_f16(data);
    for (int sub = 0; sub < 8; ++sub) {
      const uint32_t word = read_u32(data + 66 + 4 * sub);
      const float scale = d * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
      for (int i = 0; i < 8; ++i) {
        const uint32_t signs = eight_signs(word >> 7 * (i / 2)) >> 4 * (i % 2);
        write_iq3(scale, kIq3xxsValues, kIq3xxs[data[2 + 8 * sub + i]], signs, out + 32 * sub + 4 * i);
      }
    }
  }
}

// d, 64 low bytes of entries, their high bits, 32 bytes of signs, 8 scales of 4 bits.
void decode_iq3_s(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 110, out += kSize) {
    const float d = read_f16(data);
    for (int i = 0; i < 64; ++i) {
      const int entry = data[2 + i] | (data[66 + i / 8] >> i % 8 & 1) << 8;
      const int scale = data[106 + i / 16] >> 4 * (i / 8 % 2) & 15;
      const uint32_t signs = static_cast<uint32_t>(data[74 + i / 2] >> 4 * (i % 2));
      write_iq3(d * static_cast<float>(1 + 2 * scale), kIq3sValues, kIq3s[entry], signs, out + 4 * i);
    }
  }
}

// d, 32 low bytes of entries, then for each 32 elements a word: 4 x 3 high bits, a 3-bit scale, the sign of the delta.
void decode_iq1_s(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 50, out += kSize) {
    const float d = read_f16(data);
    for (int i = 0; i < 32; ++i) {
      const uint16_t word = read_u16(data + 34 + 2 * (i / 4));
      const int entry = data[2 + i] | (word >> 3 * (i % 4) & 7) << 8;
      write_iq1(d * static_cast<float>(2 * (word >> 12 & 7) + 1), kIq1s[entry], word & 0x8000 ? -kIq1Delta : kIq1Delta, out + 8 * i);
    }
  }
}

// 32 low bytes of entries, a nibble each of 3 high bits and the sign of the delta, four words of 4 x 3-bit scales, whose top nibbles are
// d in parts. The codebook is that of IQ1_S.
void decode_iq1_m(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, data += 56, out += kSize) {
    uint32_t d_bits = 0;
    for (int i = 0; i < 4; ++i) d_bits |= static_cast<uint32_t>(read_u16(data + 48 + 2 * i) >> 12) << 4 * i;
    const float d = f16_to_float(static_cast<uint16_t>(d_bits));
    for (int i = 0; i < 32; ++i) {
      const int nibble = data[32 + i / 2] >> 4 * (i % 2);
      const int scale = read_u16(data + 48 + 2 * (i / 8)) >> 3 * (i / 2 % 4) & 7;
      const int entry = data[i] | (nibble & 7) << 8;
      write_iq1(d * static_cast<float>(2 * scale + 1), kIq1s[entry], nibble & 8 ? -kIq1Delta : kIq1Delta, out + 8 * i);
    }
  }
}

}  // namespace tq::ggml
