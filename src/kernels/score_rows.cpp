#include "kernels/score_rows.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace tq {
namespace {

// log(sum exp) of a row, and where its largest value is.
struct LogSum {
  double value = 0;
  int32_t top = 0;
};

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
  return {std::log(sum) + *largest, static_cast<int32_t>(largest - logits)};
}

double divergence(const float* reference, const LogSum& reference_sum, const float* logits, const LogSum& sum, int64_t count) {
  double total = 0;
  const double shift = sum.value - reference_sum.value;
  for (int64_t i = 0; i < count; ++i) {
    const double log_p = reference[i] - reference_sum.value;
    if (log_p < -40) continue;  // below 1e-17 each: nothing to double precision
    total += std::exp(log_p) * (static_cast<double>(reference[i]) - logits[i] + shift);
  }
  return total;
}

TokenScore score_row(const float* logits, const float* reference, int32_t next, int64_t vocabulary) {
  const LogSum sum = log_sum(logits, vocabulary);
  TokenScore score{.loss = sum.value - logits[next], .top = sum.top};
  if (!reference) return score;
  const LogSum other = log_sum(reference, vocabulary);
  score.reference_loss = other.value - reference[next], score.reference_top = other.top;
  score.divergence = divergence(reference, other, logits, sum, vocabulary);
  return score;
}

}  // namespace

void score_rows(const ScoreArgs& args, ThreadPool& threads) {
  threads.run(static_cast<int64_t>(args.next.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      args.score[t] = score_row(args.logits + t * args.vocabulary, args.reference ? args.reference + t * args.vocabulary : nullptr,
                                args.next[static_cast<size_t>(t)], args.vocabulary);
  });
}

}  // namespace tq
