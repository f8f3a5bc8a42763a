#include "codec/grid/grid_rounder.h"

#include <algorithm>
#include <cstring>

#include "base/float16.h"

namespace tq::grid {
namespace {

// Matrices of so many rows are cut into parts, whatever the number of threads, so that the result does not depend on it.
constexpr int64_t kTallRows = 16384, kPartRows = 2048;

float as_f16(double value) { return f16_to_float(float_to_f16(static_cast<float>(value))); }

}  // namespace

GridRounder::GridRounder(const Settings& settings, std::vector<float> scale)
    : layout_(settings.rows, settings.columns, settings.rates),
      rates_(settings.rates.begin(), settings.rates.end()),
      order_(settings.order),
      threads_(settings.threads),
      scale_(std::move(scale)),
      inverse_(scale_.size()),
      metric_(scale_.size()),
      target_(scale_.size()),
      value_(scale_.size()),
      string_(static_cast<size_t>(layout_.plane_rows)),
      bits_(layout_.bytes()) {
  TQ_CHECK(static_cast<int64_t>(scale_.size()) == settings.rows);
  for (float& each : scale_) each = as_f16(each);
  if (settings.rows >= kTallRows)
    for (int64_t row = 0; row + kPartRows <= settings.rows; row += kPartRows) cuts_.push_back(row);
  states_.resize(cuts_.size());
  const int encoders = threads_ && !cuts_.empty() ? threads_->size() : 1;
  for (int i = 0; i < encoders; ++i) encoders_.emplace_back(layout_, *settings.taps, settings.isa);
  set_scales();
}

void GridRounder::set_scales() {
  for (size_t r = 0; r < scale_.size(); ++r) {
    inverse_[r] = scale_[r] > 0 ? 1.0f / scale_[r] : 0.0f;
    metric_[r] = scale_[r] > 0 ? scale_[r] * scale_[r] : -1.0f;
  }
  if (cuts_.empty()) return;
  for (ColumnEncoder& encoder : encoders_) encoder.set_weights(metric_.data());
}

void GridRounder::for_each(int64_t count, const std::function<void(int64_t, ColumnEncoder&)>& work) {
  const auto range = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) work(i, encoders_[static_cast<size_t>(thread)]);
  };
  if (threads_) threads_->run(count, 1, range);
  else range(0, count, 0);
}

void GridRounder::encode_tall() {
  const auto parts = static_cast<int64_t>(cuts_.size());
  for_each(parts, [&](int64_t i, ColumnEncoder& encoder) {
    states_[static_cast<size_t>(i)] = encoder.state_before(target_.data(), cuts_[static_cast<size_t>(i)]);
  });
  for_each(parts, [&](int64_t i, ColumnEncoder& encoder) {
    const auto at = static_cast<size_t>(i), next = at + 1 == cuts_.size() ? 0 : at + 1;
    encoder.encode_part(target_.data(), {cuts_[at], next ? cuts_[next] : layout_.rows, states_[at], states_[next]}, string_.data(),
                        value_.data());
  });
}

void GridRounder::round(int64_t first, const float* targets, float* values) {
  for (size_t r = 0; r < scale_.size(); ++r) target_[r] = targets[r] * inverse_[r];
  if (cuts_.empty()) encoders_[0].encode(target_.data(), metric_.data(), string_.data(), value_.data());
  else encode_tall();
  const int64_t column = order_.empty() ? first : order_[static_cast<size_t>(first)];
  if (cuts_.empty()) {
    store_column(layout_, column, string_.data(), bits_.data());
  } else {
    constexpr int64_t kRows = 64 * kLineRows;
    for_each((layout_.plane_rows + kRows - 1) / kRows, [&](int64_t i, ColumnEncoder&) {
      store_plane_rows(layout_, column, i * kRows, std::min(layout_.plane_rows, (i + 1) * kRows), string_.data(), bits_.data());
    });
  }
  for (size_t r = 0; r < scale_.size(); ++r) values[r] = scale_[r] * value_[r];
}

std::vector<float> GridRounder::scale_rows(const std::vector<double>& factor) {
  std::vector<float> real(scale_.size(), 1.0f);
  for (size_t r = 0; r < scale_.size(); ++r) {
    if (!(scale_[r] > 0)) continue;
    const float before = scale_[r], after = as_f16(before * factor[r]);
    if (after > 0) scale_[r] = after, real[r] = after / before;
  }
  set_scales();
  return real;
}

std::vector<RoundedPart> GridRounder::finish() {
  std::vector<uint16_t> halves;
  for (const float scale : scale_) halves.push_back(float_to_f16(scale));
  std::vector<RoundedPart> parts;
  parts.push_back(part_of("bits", DType::kU8, bits_));
  parts.push_back(part_of("row_scale", DType::kF16, halves));
  parts.push_back(part_of("rates", DType::kU8, rates_));
  return parts;
}

}  // namespace tq::grid
