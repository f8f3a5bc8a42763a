#include "eval/logits.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace tq {

LogSum log_sum(const float* logits, int64_t count) {
  const float* largest = std::max_element(logits, logits + count);
  float sum_parts[16] = {};  // independent sums, for speed; float is enough for terms in (0, 1]
  double sum = 0;
  int64_t i = 0;
  for (; i + 16 * 256 <= count; i += 16 * 256) {
    std::fill(std::begin(sum_parts), std::end(sum_parts), 0.0f);
    for (int64_t j = 0; j < 256; ++j)
      for (int64_t k = 0; k < 16; ++k) sum_parts[k] += std::exp(logits[i + j * 16 + k] - *largest);
    for (const float part : sum_parts) sum += part;
  }
  for (; i < count; ++i) sum += std::exp(logits[i] - *largest);
  return {std::log(sum) + *largest, largest - logits};
}

}  // namespace tq
