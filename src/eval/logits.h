// What evaluations need of a row of logits.
#pragma once

#include <cstdint>

namespace tq {

// log(sum exp) of a row, and where its largest value is (the first of equals). Sums in double precision over float terms.
struct LogSum {
  double value = 0;
  int64_t top = 0;
};
LogSum log_sum(const float* logits, int64_t count);

}  // namespace tq
