// What rounding a linear's input to int8 would cost: the error of each rotated column.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "tensor/tensor_view.h"

namespace tq {

// Precisions of the activations that a grid matrix is multiplied with (the artifact's P.activation_bits).
constexpr int kActivationBits = 8, kFineActivationBits = 15;
// int8 is enough as long as it adds at most this share to a tensor's rounding error.
constexpr double kActivationShare = 0.05;

// What a tensor needs. Rates of 5 and more always take the finer one: their own error is that small.
int activation_bits(std::span<const uint8_t> rates, double activation_error, double rounding_error);

class ActivationError {
 public:
  // sign: [ceil(C / 8)] packed, the rotation of the tap point (codec/grid/grid.h).
  explicit ActivationError(std::vector<uint8_t> sign, int64_t columns) : columns_(columns), sign_(std::move(sign)), sum_(size()) {}

  // device: a backend that sums in its own memory (Backend::quantizer). Errors: kNoResource, its memory.
  Status use(Backend& device);
  // input: [T, C], the device's if there is one; weight: [T] of the tokens, the host's, null: all 1. The same sums on any number of
  // threads.
  void add(const float* input, int64_t tokens, ThreadPool& threads, const float* weight = nullptr);
  // Brings what the device has summed to the host. To be called before mean().
  void settle();
  // [C] weighted mean over the tokens of (x'_k - its int8 form)^2, with a scale per token and grid::kActivationColumns columns.
  std::vector<double> mean() const;

 private:
  size_t size() const { return static_cast<size_t>(columns_); }
  int64_t columns_;
  double weight_ = 0;  // of all tokens
  std::vector<uint8_t> sign_;
  std::vector<double> sum_;
  Buffer<float> partial_;
  Backend* device_ = nullptr;
  Memory device_sum_;  // [C] doubles
};

}  // namespace tq
