// What is measured of the inputs of linears: second moments H = sum_t x_t x_t^T, and what rounding them costs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/float_products.h"
#include "quantize/activation.h"
#include "tensor/tensor_view.h"

namespace tq {

class SecondMoment {
 public:
  // device: a backend that sums in its own memory (Backend::quantizer), or null. Errors: kNoResource, its memory.
  explicit SecondMoment(int64_t columns);
  static Result<SecondMoment> create(int64_t columns, Backend* device);
  // input: [T, C], the device's if there is one; weight: [T], how much each token counts, or null: 1. The same sums on any number of
  // threads.
  void add(const float* input, int64_t tokens, FloatProducts& products, const float* weight = nullptr);
  // Adds sums over tokens of this weight, [C, C], in the memory of `backend`.
  void add_sum(const float* sum, double weight, int64_t tokens, Backend& backend);
  // The sum so far in the memory of `backend`, [C, C], what is below and on the diagonal; null if it is elsewhere.
  const float* sum_in(Backend& backend) const;
  // The same in memory of its own, if it is elsewhere. Errors: kNoResource.
  Result<Memory> uploaded_to(Backend& backend) const;
  // Brings what the device has summed to the host. To be called before anything below but take_sum().
  void settle();
  // The device that the sum is still on, or null, and what it takes there.
  Backend* device() const { return device_; }
  uint64_t device_bytes() const { return device_sum_.bytes(); }
  // The sum on the device, [C, C], its lower triangle, and the weight of all tokens. Leaves the object empty.
  std::pair<Memory, double> take_sum();
  void put_back(Memory sum, Backend& device) { device_sum_ = std::move(sum), device_ = &device; }
  int64_t columns() const { return columns_; }
  int64_t tokens() const { return tokens_; }
  // Adds what another one of the same columns has seen.
  void add(const SecondMoment& other);
  // [C, C], the (weighted) mean over the tokens, both triangles. take() leaves the object empty.
  Buffer<float> take(ThreadPool* threads = nullptr);
  Buffer<float> mean() const;

 private:
  const float* scaled(const float* input, int64_t tokens, const float* weight);
  int64_t columns_, tokens_ = 0;
  double weight_ = 0;     // of all tokens together
  Buffer<float> lower_;   // [C, C], lower triangle
  Buffer<float> scaled_;  // a weighted copy of the input
  Backend* device_ = nullptr;
  Memory device_sum_;  // [C, C]
};

// The mean of |x| of every column, which AWQ's scales follow.
class Magnitude {
 public:
  explicit Magnitude(int64_t columns) : sum_(static_cast<size_t>(columns)) {}
  void add(const float* input, int64_t tokens);
  std::vector<double> mean() const;

 private:
  int64_t tokens_ = 0;
  std::vector<double> sum_;
};

struct InputStatistics {
  SecondMoment moment;
  ActivationError activation;
  Magnitude magnitude;
};
// By tap point and expert; expert -1: every token that reaches the tap point.
using InputKey = std::pair<std::string, int64_t>;
using Statistics = std::map<InputKey, InputStatistics>;

}  // namespace tq
