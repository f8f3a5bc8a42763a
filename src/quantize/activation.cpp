#include "quantize/activation.h"

#include <algorithm>
#include <cmath>

#include "base/rounding_scale.h"
#include "codec/grid/grid.h"
#include "kernels/device_quantizer.h"

namespace tq {
namespace {

constexpr int64_t kTokens = 64;  // summed in float before they go to the double

// Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even, without a call of the library.
constexpr float kRounder = 12582912.0f;

void add_rounding_errors(const float* rotated, int64_t columns, float weight, float* sum) {
  for (int64_t begin = 0; begin < columns; begin += grid::kActivationColumns) {
    const int64_t end = std::min(columns, begin + grid::kActivationColumns);
    const RoundingScale unit = rounding_scale(largest_magnitude(rotated + begin, end - begin), 127.0f);
    for (int64_t k = begin; k < end; ++k) {
      const float error = rotated[k] - unit.scale * ((rotated[k] * unit.inverse + kRounder) - kRounder);
      sum[k] += weight * error * error;
    }
  }
}

}  // namespace

int activation_bits(std::span<const uint8_t> rates, double activation_error, double rounding_error) {
  constexpr int kFineRate = 5;
  const bool is_fine = std::any_of(rates.begin(), rates.end(), [](uint8_t rate) { return rate >= kFineRate; });
  return is_fine || activation_error > kActivationShare * rounding_error ? kFineActivationBits : kActivationBits;
}

Status ActivationError::use(Backend& device) {
  TQ_ASSIGN(device_sum_, device.allocate(size() * sizeof(double)));
  device.zero(device_sum_.as<float>(), static_cast<int64_t>(device_sum_.bytes() / sizeof(float)));
  device_ = &device;
  return {};
}

void ActivationError::settle() {
  if (!device_) return;
  device_->download(sum_.data(), device_sum_.as<void>(), device_sum_.bytes());
  device_sum_ = Memory(), device_ = nullptr;
}

void ActivationError::add(const float* input, int64_t tokens, ThreadPool& threads, const float* weight) {
  for (int64_t t = 0; t < tokens; ++t) weight_ += weight ? static_cast<double>(weight[t]) : 1.0;
  if (device_) {
    device_->quantizer()->input_error(
        {.input = input, .weight = weight, .sign = sign_.data(), .tokens = tokens, .columns = columns_, .sum = device_sum_.as<double>()});
    return;
  }
  const int64_t groups = (tokens + kTokens - 1) / kTokens;
  if (partial_.size() < static_cast<size_t>(groups * columns_))
    partial_ = Buffer<float>::uninitialized(static_cast<size_t>(groups * columns_));
  threads.run(groups, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> rotated(size());
    for (int64_t group = begin; group < end; ++group) {
      float* sum = partial_.data() + group * columns_;
      std::fill_n(sum, columns_, 0.0f);
      for (int64_t t = group * kTokens; t < std::min(tokens, (group + 1) * kTokens); ++t) {
        std::copy_n(input + t * columns_, columns_, rotated.data());
        grid::rotate(rotated.data(), 1, columns_, sign_.data());
        add_rounding_errors(rotated.data(), columns_, weight ? weight[t] : 1.0f, sum);
      }
    }
  });
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t k = 0; k < columns_; ++k)
      sum_[static_cast<size_t>(k)] += static_cast<double>(partial_[static_cast<size_t>(group * columns_ + k)]);
}

std::vector<double> ActivationError::mean() const {
  std::vector<double> out = sum_;
  for (double& each : out) each /= weight_ > 0 ? weight_ : 1.0;
  return out;
}

}  // namespace tq
