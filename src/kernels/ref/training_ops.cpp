#include "kernels/ref/training_ops.h"

#include <cmath>
#include <vector>

namespace tq::ref {
namespace {

// sum[r] += sum_t term(t, r)
template <typename Term>
void add_columns(int64_t tokens, int64_t rows, float* sum, const Term& term) {
  for (int64_t r = 0; r < rows; ++r) {
    double all = sum[r];
    for (int64_t t = 0; t < tokens; ++t) all += term(t, r);
    sum[r] = static_cast<float>(all);
  }
}

}  // namespace

void squared_error(const SquaredErrorArgs& args) {
  double total = 0;
  for (int64_t t = 0; t < args.tokens; ++t) {
    const double factor = static_cast<double>(args.scale) * (args.weight ? args.weight[t] : 1.0f);
    for (int64_t i = t * args.width; i < (t + 1) * args.width; ++i) {
      const double difference = static_cast<double>(args.output[i]) - args.target[i];
      total += factor * difference * difference;
      args.gradient[i] = static_cast<float>(2 * factor * difference);
    }
  }
  if (args.loss) *args.loss += total;
}

void softcap_backward(const SoftcapBackwardArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) {
    const double bent = static_cast<double>(args.output[i]) / args.cap;
    args.gradient[i] = static_cast<float>(args.gradient[i] * (1.0 - bent * bent));
  }
}

void scale_rows(const ScaleRowsArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r)
    for (int64_t k = 0; k < args.columns; ++k) args.values[r * args.columns + k] *= args.factor[r];
}

void row_scale_gradient(const RowScaleGradientArgs& args) {
  add_columns(args.tokens, args.rows, args.sum, [&](int64_t t, int64_t r) {
    const int64_t at = t * args.rows + r;
    return static_cast<double>(args.gradient[at]) * (static_cast<double>(args.output[at]) - (args.bias ? args.bias[r] : 0.0f));
  });
}

void column_sum(const ColumnSumArgs& args) {
  add_columns(args.tokens, args.rows, args.sum,
              [&](int64_t t, int64_t r) { return static_cast<double>(args.gradient[t * args.rows + r]); });
}

void squares(const SquaresArgs& args) {
  const auto square = [&](int64_t t, int64_t r) {
    const double g = args.gradient[t * args.rows + r];
    return g * g;
  };
  if (args.finite) *args.finite = true;
  for (int64_t t = 0; t < args.tokens; ++t) {
    double sum = 0;
    for (int64_t r = 0; r < args.rows; ++r) sum += square(t, r);
    if (args.token) args.token[t] = static_cast<float>(sum / static_cast<double>(args.rows));
    if (args.finite) *args.finite &= std::isfinite(sum);
  }
  if (args.row) add_columns(args.tokens, args.rows, args.row, square);
}

void adam(const AdamArgs& args) {
  const double beta1 = args.beta1, beta2 = args.beta2;
  const double correct1 = 1 - std::pow(beta1, static_cast<double>(args.step)),
               correct2 = 1 - std::pow(beta2, static_cast<double>(args.step));
  for (int64_t i = 0; i < args.count; ++i) {
    const double g = static_cast<double>(args.gradient_scale) * args.gradient[i];
    const double first = beta1 * args.first[i] + (1 - beta1) * g, second = beta2 * args.second[i] + (1 - beta2) * g * g;
    args.value[i] = static_cast<float>(args.value[i] - args.rate * (first / correct1) / (std::sqrt(second / correct2) + args.epsilon));
    args.first[i] = static_cast<float>(first), args.second[i] = static_cast<float>(second), args.gradient[i] = 0.0f;
  }
}

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

void product(const DenseProductArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r)
    for (int64_t c = 0; c < args.columns; ++c) {
      double sum = args.accumulate ? static_cast<double>(args.output[r * args.columns + c]) : 0.0;
      for (int64_t d = 0; d < args.depth; ++d) sum += static_cast<double>(args.left[r * args.depth + d]) * args.right[d * args.columns + c];
      args.output[r * args.columns + c] = static_cast<float>(sum);
    }
}

bool solve(const SolveArgs& args) {
  const int64_t n = args.columns;
  std::vector<double> lower(static_cast<size_t>(n * n));
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += static_cast<double>(args.matrix[i * n + i]) / static_cast<double>(n);
  const auto at = [&](int64_t i, int64_t j) -> double& { return lower[static_cast<size_t>(i * n + j)]; };
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = static_cast<double>(args.matrix[i * n + j]) + (i == j ? args.ridge * mean : 0.0);
      for (int64_t k = 0; k < j; ++k) sum -= at(i, k) * at(j, k);
      if (i == j && !(sum > 0)) return false;
      at(i, j) = i == j ? std::sqrt(sum) : sum / at(j, j);
    }
  std::vector<double> x(static_cast<size_t>(n));
  for (int64_t r = 0; r < args.rows; ++r) {
    float* row = args.right + r * n;
    for (int64_t i = 0; i < n; ++i) {
      double sum = static_cast<double>(row[i]);
      for (int64_t k = 0; k < i; ++k) sum -= at(i, k) * x[static_cast<size_t>(k)];
      x[static_cast<size_t>(i)] = sum / at(i, i);
    }
    for (int64_t i = n - 1; i >= 0; --i) {
      double sum = x[static_cast<size_t>(i)];
      for (int64_t k = i + 1; k < n; ++k) sum -= at(k, i) * x[static_cast<size_t>(k)];
      x[static_cast<size_t>(i)] = sum / at(i, i);
    }
    for (int64_t i = 0; i < n; ++i) row[i] = static_cast<float>(x[static_cast<size_t>(i)]);
  }
  return true;
}

}  // namespace tq::ref
