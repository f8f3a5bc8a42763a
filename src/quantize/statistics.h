// What is measured of the inputs of linears: second moments H = sum_t x_t x_t^T, and what rounding them costs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "base/thread_pool.h"
#include "quantize/activation.h"
#include "tensor/tensor_view.h"

namespace tq {

class SecondMoment {
 public:
  explicit SecondMoment(int64_t columns);
  // input: [T, C]; weight: [T], how much each token counts, or null: 1. The same sums on any number of threads.
  void add(const float* input, int64_t tokens, ThreadPool& threads, const float* weight = nullptr);
  int64_t columns() const { return columns_; }
  int64_t tokens() const { return tokens_; }
  // Adds what another one of the same columns has seen.
  void add(const SecondMoment& other);
  // [C, C], the (weighted) mean over the tokens, both triangles. take() leaves the object empty.
  Buffer<float> take();
  Buffer<float> mean() const;

 private:
  const float* scaled(const float* input, int64_t tokens, const float* weight);
  int64_t columns_, tokens_ = 0;
  double weight_ = 0;     // of all tokens together
  Buffer<float> lower_;   // [C, C], lower triangle
  Buffer<float> scaled_;  // a weighted copy of the input
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
