// Activations as the plane kernels take them: rotated, and rounded to int8 with a scale per token and 256 columns.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "tensor/tensor_view.h"

namespace tq::cpu {

constexpr int64_t kGroupColumns = 256;  // columns that share a scale

// One int8 vector and what its unit is worth. A token in high precision is two streams: x = s (128 hi + lo), 15 bits.
struct StreamView {
  const int8_t* values;  // [padded columns], 64-byte aligned, zero behind the last column
  const float* scale;    // [groups]
};

class PlaneInput {
 public:
  // input: [T, C]; sign: packed, [ceil(C / 8)]. Results do not depend on the number of threads. Buffers grow and stay.
  void set(const float* input, int64_t tokens, int64_t columns, const uint8_t* sign, bool high_precision, Isa isa, ThreadPool& threads);

  int64_t tokens() const { return tokens_; }
  int64_t columns() const { return columns_; }
  int64_t groups() const { return groups_; }
  int streams_per_token() const { return streams_; }
  StreamView stream(int64_t token, int stream) const;
  // The sum of the rounded, rotated activations of a token: X of the grid's product.
  float sum(int64_t token) const { return sums_[static_cast<size_t>(token)]; }

 private:
  int64_t tokens_ = 0, columns_ = 0, padded_ = 0, groups_ = 0;
  int streams_ = 1;
  Buffer<float> rotated_;  // [threads, padded]
  Buffer<int8_t> values_;  // [T, streams, padded]
  Buffer<float> scales_;   // [T, streams, groups]
  Buffer<float> sums_;     // [T]
};

}  // namespace tq::cpu
