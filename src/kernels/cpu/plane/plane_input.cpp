#include "kernels/cpu/plane/plane_input.h"

#include <algorithm>

#include "kernels/cpu/grow.h"
#include "kernels/cpu/plane/plane_kernels.h"

namespace tq::cpu {

StreamView PlaneInput::stream(int64_t token, int stream) const {
  const int64_t at = token * streams_ + stream;
  return {values_.data() + at * padded_, scales_.data() + at * groups_};
}

void PlaneInput::set(const float* input, int64_t tokens, int64_t columns, const uint8_t* sign, bool high_precision, Isa isa,
                     ThreadPool& threads) {
  tokens_ = tokens, columns_ = columns;
  padded_ = (columns + 63) / 64 * 64;
  groups_ = (columns + kGroupColumns - 1) / kGroupColumns;
  streams_ = high_precision ? 2 : 1;
  grow(rotated_, threads.size() * padded_);
  grow(values_, tokens * streams_ * padded_);
  grow(scales_, tokens * streams_ * groups_);
  grow(sums_, tokens);
  const PlaneKernels& kernels = plane_kernels(isa);
  const auto work = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) {
      float* rotated = rotated_.data() + thread * padded_;
      std::copy_n(input + t * columns, columns, rotated);
      kernels.rotate(rotated, columns, sign);
      int8_t* high = values_.data() + t * streams_ * padded_;
      float* scale = scales_.data() + t * streams_ * groups_;
      for (int s = 0; s < streams_; ++s) std::fill(high + s * padded_ + columns, high + (s + 1) * padded_, int8_t{0});
      sums_[static_cast<size_t>(t)] = kernels.round({.rotated = rotated,
                                                     .columns = columns,
                                                     .high = high,
                                                     .low = high_precision ? high + padded_ : nullptr,
                                                     .high_scale = scale,
                                                     .low_scale = scale + groups_});
    }
  };
  if (tokens == 1) work(0, 1, 0);
  else threads.run(tokens, 1, work);
}

}  // namespace tq::cpu
