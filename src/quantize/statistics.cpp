#include "quantize/statistics.h"

#include <algorithm>
#include <cmath>

#include "kernels/device_quantizer.h"

namespace tq {
namespace {

constexpr int64_t kBand = 384;  // rows of H that are summed together

}  // namespace

SecondMoment::SecondMoment(int64_t columns) : columns_(columns), lower_(static_cast<size_t>(columns * columns)) {}

Result<SecondMoment> SecondMoment::create(int64_t columns, Backend* device) {
  if (!device) return SecondMoment(columns);
  SecondMoment out(0);
  out.columns_ = columns, out.device_ = device;
  TQ_ASSIGN(out.device_sum_, device->allocate(static_cast<uint64_t>(columns * columns) * sizeof(float)));
  device->zero(out.device_sum_.as<float>(), columns * columns);
  return out;
}

void SecondMoment::settle() {
  if (device_sum_.empty()) return;
  lower_ = Buffer<float>::uninitialized(static_cast<size_t>(columns_ * columns_));
  device_->download(lower_.data(), device_sum_.as<void>(), device_sum_.bytes());
  device_sum_ = Memory(), device_ = nullptr;
}

std::pair<Memory, double> SecondMoment::take_sum() {
  device_ = nullptr;
  return {std::move(device_sum_), weight_};
}

void SecondMoment::add(const float* input, int64_t tokens, FloatProducts& products, const float* weight) {
  tokens_ += tokens;
  if (device_) {
    for (int64_t t = 0; t < tokens; ++t) weight_ += weight ? static_cast<double>(weight[t]) : 1.0;
    device_->quantizer()->second_moment(
        {.input = input, .weight = weight, .tokens = tokens, .columns = columns_, .sum = device_sum_.as<float>()});
    return;
  }
  if (weight) input = scaled(input, tokens, weight);
  else weight_ += static_cast<double>(tokens);
  std::vector<FloatProduct> bands;
  for (int64_t last = columns_; last > 0; last = (last - 1) / kBand * kBand) {  // the longest first
    const int64_t first = (last - 1) / kBand * kBand;
    bands.push_back({.rows = last - first,
                     .columns = last,
                     .depth = tokens,
                     .left = input + first,
                     .left_stride = columns_,
                     .is_left_transposed = true,
                     .right = input,
                     .right_stride = columns_,
                     .output = lower_.data() + first * columns_,
                     .output_stride = columns_,
                     .accumulate = true});
  }
  products.run(bands, ProductPrecision::kFloat);
}

void SecondMoment::add(const SecondMoment& other) {
  TQ_CHECK(other.columns_ == columns_);
  tokens_ += other.tokens_, weight_ += other.weight_;
  for (size_t i = 0; i < lower_.size(); ++i) lower_[i] += other.lower_[i];
}

void SecondMoment::add_sum(const float* sum, double weight, int64_t tokens, Backend& backend) {
  tokens_ += tokens, weight_ += weight;
  const int64_t count = columns_ * columns_;
  if (device_) return device_->add(device_sum_.as<float>(), sum, count);
  auto host = Buffer<float>::uninitialized(static_cast<size_t>(count));
  backend.download(host.data(), sum, static_cast<uint64_t>(count) * sizeof(float));
  for (size_t i = 0; i < host.size(); ++i) lower_[i] += host[i];
}

const float* SecondMoment::sum_in(Backend& backend) const {
  if (device_) return device_ == &backend ? device_sum_.as<float>() : nullptr;
  return backend.quantizer() ? nullptr : lower_.data();
}

Result<Memory> SecondMoment::uploaded_to(Backend& backend) const {
  TQ_CHECK(!device_);
  TQ_ASSIGN(Memory out, backend.allocate(static_cast<uint64_t>(columns_ * columns_) * sizeof(float)));
  backend.upload(out.as<float>(), lower_.data(), out.bytes());
  return out;
}

// sqrt(weight) x for every token: H = sum w x x^T stays a Gram matrix, whatever is rounded on the way.
const float* SecondMoment::scaled(const float* input, int64_t tokens, const float* weight) {
  const auto count = static_cast<size_t>(tokens * columns_);
  if (scaled_.size() < count) scaled_ = Buffer<float>::uninitialized(count);
  for (int64_t t = 0; t < tokens; ++t) {
    weight_ += weight[t];
    const float root = std::sqrt(weight[t]);
    for (int64_t k = 0; k < columns_; ++k) scaled_[static_cast<size_t>(t * columns_ + k)] = root * input[t * columns_ + k];
  }
  return scaled_.data();
}

Buffer<float> SecondMoment::take(ThreadPool* threads) {
  Buffer<float> out = std::move(lower_);
  constexpr int64_t kTile = 64;
  const float scale = weight_ > 0 ? static_cast<float>(1.0 / weight_) : 0.0f;
  const auto fill = [&](int64_t first) {
    for (int64_t j0 = 0; j0 <= first; j0 += kTile)
      for (int64_t i = first; i < std::min(columns_, first + kTile); ++i)
        for (int64_t j = j0; j <= std::min(i, j0 + kTile - 1); ++j) {
          const auto at = static_cast<size_t>(i * columns_ + j);
          out[at] *= scale;
          out[static_cast<size_t>(j * columns_ + i)] = out[at];
        }
  };
  run_on(threads, (columns_ + kTile - 1) / kTile, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) fill(tile * kTile);
  });
  return out;
}

Buffer<float> SecondMoment::mean() const {
  SecondMoment copy(columns_);
  copy.add(*this);
  return copy.take();
}

void Magnitude::add(const float* input, int64_t tokens) {
  tokens_ += tokens;
  std::vector<float> sum(sum_.size());
  for (int64_t t = 0; t < tokens; ++t)
    for (size_t k = 0; k < sum.size(); ++k) sum[k] += std::fabs(input[static_cast<size_t>(t) * sum.size() + k]);
  for (size_t k = 0; k < sum.size(); ++k) sum_[k] += static_cast<double>(sum[k]);
}

std::vector<double> Magnitude::mean() const {
  std::vector<double> out = sum_;
  for (double& each : out) each /= static_cast<double>(std::max<int64_t>(1, tokens_));
  return out;
}

}  // namespace tq
