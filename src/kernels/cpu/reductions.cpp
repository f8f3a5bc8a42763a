#include "kernels/cpu/reductions.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <vector>

namespace tq::cpu {
namespace {

constexpr int64_t kValues = 1 << 14;  // that a thread takes at a time
constexpr int64_t kRows = 64;

// sum[r] += sum_t term(place in [T, R], r)
template <typename Term>
void add_columns(int64_t tokens, int64_t rows, float* sum, ThreadPool& threads, const Term& term) {
  threads.run(rows, kRows, [&](int64_t begin, int64_t end, int) {
    std::vector<double> all(static_cast<size_t>(end - begin));
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t r = begin; r < end; ++r) all[static_cast<size_t>(r - begin)] += term(t * rows + r, r);
    for (int64_t r = begin; r < end; ++r) sum[r] += static_cast<float>(all[static_cast<size_t>(r - begin)]);
  });
}

}  // namespace

void squared_error(const SquaredErrorArgs& args, const TrainingKernels& loops, ThreadPool& threads) {
  std::vector<double> loss(static_cast<size_t>(args.tokens));
  threads.run(args.tokens, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float factor = args.scale * (args.weight ? args.weight[t] : 1.0f);
      const int64_t at = t * args.width;
      const double sum = loops.squared_error(args.output + at, args.target + at, factor, args.gradient + at, args.width);
      loss[static_cast<size_t>(t)] = factor * sum;
    }
  });
  if (args.loss) *args.loss += std::accumulate(loss.begin(), loss.end(), 0.0);
}

void softcap_backward(const SoftcapBackwardArgs& args, ThreadPool& threads) {
  threads.run(args.count, kValues, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const float bent = args.output[i] / args.cap;
      args.gradient[i] *= 1.0f - bent * bent;
    }
  });
}

void scale_rows(const ScaleRowsArgs& args, ThreadPool& threads) {
  threads.run(args.rows, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t k = 0; k < args.columns; ++k) args.values[r * args.columns + k] *= args.factor[r];
  });
}

void row_scale_gradient(const RowScaleGradientArgs& args, const TrainingKernels& loops, ThreadPool& threads) {
  threads.run(args.rows, kRows, [&](int64_t begin, int64_t end, int) {
    std::vector<double> all(static_cast<size_t>(end - begin));
    for (int64_t t = 0; t < args.tokens; ++t) {
      const int64_t at = t * args.rows + begin;
      loops.add_products(all.data(), args.gradient + at, args.output + at, args.bias ? args.bias + begin : nullptr, end - begin);
    }
    for (int64_t r = begin; r < end; ++r) args.sum[r] += static_cast<float>(all[static_cast<size_t>(r - begin)]);
  });
}

void column_sum(const ColumnSumArgs& args, ThreadPool& threads) {
  add_columns(args.tokens, args.rows, args.sum, threads, [&](int64_t at, int64_t) { return static_cast<double>(args.gradient[at]); });
}

void squares(const SquaresArgs& args, ThreadPool& threads) {
  const auto square = [&](int64_t at, int64_t) { return static_cast<double>(args.gradient[at]) * args.gradient[at]; };
  if (args.row) add_columns(args.tokens, args.rows, args.row, threads, square);
  if (!args.token && !args.finite) return;
  std::atomic<bool> finite = true;
  threads.run(args.tokens, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      double sum = 0;
      for (int64_t r = 0; r < args.rows; ++r) sum += square(t * args.rows + r, r);
      if (args.token) args.token[t] = static_cast<float>(sum / static_cast<double>(args.rows));
      if (!std::isfinite(sum)) finite = false;
    }
  });
  if (args.finite) *args.finite = finite;
}

void adam(const AdamArgs& args, const TrainingKernels& loops, ThreadPool& threads) {
  const auto step = static_cast<double>(args.step);
  const auto correct1 = static_cast<float>(1 / (1 - std::pow(static_cast<double>(args.beta1), step)));
  const auto correct2 = static_cast<float>(1 / (1 - std::pow(static_cast<double>(args.beta2), step)));
  threads.run(args.count, kValues, [&](int64_t begin, int64_t end, int) {
    loops.adam({.rate = args.rate,
                .beta1 = args.beta1,
                .beta2 = args.beta2,
                .correct1 = correct1,
                .correct2 = correct2,
                .epsilon = args.epsilon,
                .gradient_scale = args.gradient_scale},
               args.value + begin, args.gradient + begin, args.first + begin, args.second + begin, end - begin);
  });
}

double dot(const float* a, const float* b, int64_t count, const FloatKernels& kernels, ThreadPool& threads) {
  constexpr int64_t kPart = 256;  // terms that a float may sum
  std::vector<double> sum(static_cast<size_t>((count + kValues - 1) / kValues));
  threads.run(static_cast<int64_t>(sum.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t part = begin; part < end; ++part)
      for (int64_t i = part * kValues; i < std::min(count, (part + 1) * kValues); i += kPart)
        sum[static_cast<size_t>(part)] += kernels.dot(a + i, b + i, std::min(kPart, count - i));
  });
  return std::accumulate(sum.begin(), sum.end(), 0.0);
}

}  // namespace tq::cpu
