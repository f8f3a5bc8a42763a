// One decoder per block type; decode.cpp lists them. Each reads `blocks` blocks that lie one after another.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "base/float16.h"

namespace tq::ggml {

using Decoder = void (*)(const uint8_t* data, int64_t blocks, float* out);

inline float read_f16(const uint8_t* data) {
  uint16_t bits;
  std::memcpy(&bits, data, sizeof bits);
  return f16_to_float(bits);
}

// legacy.cpp: 32 elements a block
void decode_q4_0(const uint8_t* data, int64_t blocks, float* out);
void decode_q4_1(const uint8_t* data, int64_t blocks, float* out);
void decode_q5_0(const uint8_t* data, int64_t blocks, float* out);
void decode_q5_1(const uint8_t* data, int64_t blocks, float* out);
void decode_q8_0(const uint8_t* data, int64_t blocks, float* out);
void decode_q8_1(const uint8_t* data, int64_t blocks, float* out);

// k_quants.cpp: 256 elements a block
void decode_q2_k(const uint8_t* data, int64_t blocks, float* out);
void decode_q3_k(const uint8_t* data, int64_t blocks, float* out);
void decode_q4_k(const uint8_t* data, int64_t blocks, float* out);
void decode_q5_k(const uint8_t* data, int64_t blocks, float* out);
void decode_q6_k(const uint8_t* data, int64_t blocks, float* out);
void decode_q8_k(const uint8_t* data, int64_t blocks, float* out);

// codebook_quants.cpp: 256 elements a block
void decode_iq1_s(const uint8_t* data, int64_t blocks, float* out);
void decode_iq1_m(const uint8_t* data, int64_t blocks, float* out);
void decode_iq2_xxs(const uint8_t* data, int64_t blocks, float* out);
void decode_iq2_xs(const uint8_t* data, int64_t blocks, float* out);
void decode_iq2_s(const uint8_t* data, int64_t blocks, float* out);
void decode_iq3_xxs(const uint8_t* data, int64_t blocks, float* out);
void decode_iq3_s(const uint8_t* data, int64_t blocks, float* out);

// value_quants.cpp
void decode_iq4_nl(const uint8_t* data, int64_t blocks, float* out);
void decode_iq4_xs(const uint8_t* data, int64_t blocks, float* out);
void decode_tq1_0(const uint8_t* data, int64_t blocks, float* out);
void decode_tq2_0(const uint8_t* data, int64_t blocks, float* out);
void decode_mxfp4(const uint8_t* data, int64_t blocks, float* out);
void decode_nvfp4(const uint8_t* data, int64_t blocks, float* out);
void decode_q1_0(const uint8_t* data, int64_t blocks, float* out);
void decode_q2_0(const uint8_t* data, int64_t blocks, float* out);

}  // namespace tq::ggml
