#include "kernels/cpu/plane/plane_input.h"

#include <algorithm>
#include <cmath>

#include "codec/grid/grid.h"

namespace tq::cpu {
namespace {

template <typename T>
void grow(Buffer<T>& buffer, int64_t count) {
  if (buffer.size() < static_cast<size_t>(count)) buffer = Buffer<T>::uninitialized(static_cast<size_t>(count));
}

float largest_of(const float* values, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(values[i]));
  return largest;
}

}  // namespace

StreamView PlaneInput::stream(int64_t token, int stream) const {
  const int64_t at = token * streams_ + stream;
  return {values_.data() + at * padded_, scales_.data() + at * groups_};
}

void PlaneInput::set(const float* input, int64_t tokens, int64_t columns, const uint8_t* sign, bool high_precision, ThreadPool& threads) {
  tokens_ = tokens, columns_ = columns;
  padded_ = (columns + 63) / 64 * 64;
  groups_ = (columns + kGroupColumns - 1) / kGroupColumns;
  streams_ = high_precision ? 2 : 1;
  grow(rotated_, tokens * columns);
  grow(values_, tokens * streams_ * padded_);
  grow(scales_, tokens * streams_ * groups_);
  grow(sums_, tokens);
  const auto work = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* rotated = rotated_.data() + t * columns;
      std::copy_n(input + t * columns, columns, rotated);
      grid::rotate(rotated, 1, columns, sign);
      round_token(t, rotated);
    }
  };
  if (tokens == 1) work(0, 1, 0);
  else threads.run(tokens, 1, work);
}

void PlaneInput::round_token(int64_t token, const float* rotated) {
  int8_t* high = values_.data() + token * streams_ * padded_;
  int8_t* low = high + padded_;  // with two streams
  float* high_scale = scales_.data() + token * streams_ * groups_;
  float* low_scale = high_scale + groups_;
  std::fill(high + columns_, high + padded_, int8_t{0});
  if (streams_ == 2) std::fill(low + columns_, low + padded_, int8_t{0});
  const float steps = streams_ == 2 ? 127.0f * 128.0f : 127.0f;
  double total = 0;
  for (int64_t g = 0; g < groups_; ++g) {
    const int64_t begin = g * kGroupColumns, end = std::min(columns_, begin + kGroupColumns);
    const float largest = largest_of(rotated + begin, end - begin);
    const float scale = largest / steps, inverse = largest > 0 ? steps / largest : 0.0f;
    int32_t sum = 0;
    for (int64_t k = begin; k < end; ++k) {
      const auto rounded = static_cast<int32_t>(std::nearbyint(rotated[k] * inverse));
      sum += rounded;
      if (streams_ == 1) {
        high[k] = static_cast<int8_t>(rounded);
      } else {
        const int32_t top = (rounded + 64) >> 7;  // in [-127, 127]
        high[k] = static_cast<int8_t>(top);
        low[k] = static_cast<int8_t>(rounded - top * 128);
      }
    }
    high_scale[g] = streams_ == 2 ? scale * 128.0f : scale;
    if (streams_ == 2) low_scale[g] = scale;
    total += static_cast<double>(scale) * sum;
  }
  sums_[static_cast<size_t>(token)] = static_cast<float>(total);
}

}  // namespace tq::cpu
