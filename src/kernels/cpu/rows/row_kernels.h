// Products of a few tokens with rows of weights as they are stored: elements of 16 or 32 bits, GGUF's blocks. Nothing is decoded to
// memory. Elements are multiplied as floats; blocks by activations of 16 bits with a scale per token and 256 columns, whose rounding
// error is below 2^-16 of the largest activation of the 256.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/cpu.h"
#include "codec/codec.h"

namespace tq::cpu {

enum class RowFormat : uint8_t { kF32, kF16, kBf16, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ2K, kQ3K, kQ4K, kQ5K, kQ6K };

constexpr int64_t kRowTokens = 8;     // tokens up to which weights are multiplied as they are stored
constexpr int64_t kRoundGroup = 256;  // columns that share a scale of the activations

// Nothing for a tensor that has no such kernel.
std::optional<RowFormat> row_format(const PackedTensor& tensor);
bool is_blocks(RowFormat format);

// Activations as blocks are multiplied with: x = scale * value.
struct RoundedRows {
  const int16_t* values;  // [T, C]
  const float* scale;     // [T, ceil(C / 256)]
  const float* sums16;    // [T, C / 16] of values
  const float* sums32;    // [T, C / 32]
};

struct RowArgs {
  const std::byte* rows = nullptr;  // stored one after another
  int64_t row_bytes = 0;
  int64_t count = 0;
  int64_t columns = 0;
  int64_t tokens = 0;            // 1 to kRowTokens
  const float* input = nullptr;  // [T, C], for elements
  RoundedRows rounded = {};      // for blocks
  float* output = nullptr;       // [T, count], rows `stride` apart
  int64_t stride = 0;
};

struct RowKernels {
  void (*multiply)(RowFormat format, const RowArgs& args);
  // One stored row to floats.
  void (*decode)(RowFormat format, const std::byte* row, int64_t columns, float* out);
  // One token. columns is a multiple of 32.
  void (*round)(const float* input, int64_t columns, int16_t* values, float* scale, float* sums16, float* sums32);
};

const RowKernels& row_kernels(Isa isa);

}  // namespace tq::cpu
