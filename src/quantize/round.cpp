#include "quantize/round.h"

#include <algorithm>
#include <cmath>

#include "base/blas.h"
#include "codec/grid/grid_rounder.h"

namespace tq {
namespace {

constexpr int64_t kBlock = 128;    // columns whose feedback from before is summed at once
constexpr int64_t kInner = 16;     // columns that feed the rest of their block at once
constexpr int64_t kRowBand = 512;  // rows that one thread multiplies at a time

// Calls work(first, count) for bands of rows, on the threads if there are any.
void for_rows(int64_t rows, ThreadPool* threads, const std::function<void(int64_t first, int64_t count)>& work) {
  const int64_t bands = (rows + kRowBand - 1) / kRowBand;
  const auto range = [&](int64_t begin, int64_t end, int) {
    for (int64_t band = begin; band < end; ++band) work(band * kRowBand, std::min(kRowBand, rows - band * kRowBand));
  };
  run_on(threads, bands, 1, range);
}

// sum[width, R] += factor[depth, width]^T rows[depth, R], all with their own strides.
struct Product {
  const float* factor;
  int64_t factor_stride;
  const float* rows;
  float* sum;
  int64_t width, depth;
};
void add_product(const Product& p, int64_t stride, ThreadPool* threads) {
  if (p.width <= 0 || p.depth <= 0) return;
  for_rows(stride, threads, [&](int64_t first, int64_t count) {
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<int>(p.width), static_cast<int>(count), static_cast<int>(p.depth),
                1.0f, p.factor, static_cast<int>(p.factor_stride), p.rows + first, static_cast<int>(stride), 1.0f, p.sum + first,
                static_cast<int>(stride));
  });
}

class Loop {
 public:
  Loop(ColumnMatrix& matrix, Rounder& rounder, const LoopRequest& request)
      : matrix_(matrix),
        rounder_(rounder),
        objective_(*request.objective),
        threads_(request.threads),
        block_(Buffer<float>::uninitialized(static_cast<size_t>(kBlock * matrix.rows))),
        value_(static_cast<size_t>(rounder.columns() * matrix.rows)),
        row_error_(static_cast<size_t>(matrix.rows)) {
    TQ_CHECK(kBlock % rounder.columns() == 0 &&
             (rounder.group() == 0 || rounder.group() >= matrix.columns || kBlock % rounder.group() == 0));
  }

  // e_r H e_r of every row: after run(), where the feedback is that of single columns; kept up to date by round_again().
  std::vector<double>& row_error() { return row_error_; }

  void run() {
    for (int64_t first = 0; first < matrix_.columns; first += kBlock) {
      first_ = first, last_ = std::min(matrix_.columns, first + kBlock);
      start_block();
      for (int64_t inner = first; inner < last_; inner += kInner) {
        const int64_t inner_end = std::min(last_, inner + kInner);
        for (int64_t k = inner; k < inner_end; k += rounder_.columns()) round_band(k, inner_end);
        feed(inner, inner_end - inner, inner_end, last_ - inner_end);
      }
    }
  }

  // Rounds every column to what is best given the errors of all others: with g = E H, the target is q_k + g_k / H_kk. Never worse, but for
  // the encoder's own approximation.
  void round_again() {
    change_ = Buffer<float>::uninitialized(static_cast<size_t>(kInner * matrix_.rows));
    for (int64_t first = 0; first < matrix_.columns; first += kBlock) {
      first_ = first, last_ = std::min(matrix_.columns, first + kBlock);
      std::fill_n(block_.data(), (last_ - first_) * matrix_.rows, 0.0f);
      add_product(
          {objective_.hessian.data() + first_, matrix_.columns, matrix_.error.data(), block_.data(), last_ - first_, matrix_.columns},
          matrix_.rows, threads_);
      for (int64_t inner = first_; inner < last_; inner += kInner) {
        const int64_t inner_end = std::min(last_, inner + kInner);
        for (int64_t k = inner; k < inner_end; ++k) improve_column(k, inner, inner_end);
        add_product({objective_.hessian.data() + inner * matrix_.columns + inner_end, matrix_.columns, change_.data(), target(inner_end),
                     last_ - inner_end, inner_end - inner},
                    matrix_.rows, threads_);
      }
    }
  }

 private:
  bool has_feedback() const { return !objective_.feedback.empty(); }
  float* target(int64_t column) { return block_.data() + (column - first_) * matrix_.rows; }

  // The block's targets: its weights and the fed-back errors of all columns before it.
  void start_block() {
    std::copy_n(matrix_.weight_at(first_), (last_ - first_) * matrix_.rows, block_.data());
    feed(0, first_, first_, last_ - first_);
  }

  // Adds the errors of `count` columns from `from` on to the targets of `width` columns from `to` on.
  void feed(int64_t from, int64_t count, int64_t to, int64_t width) {
    if (!has_feedback()) return;
    const int64_t columns = matrix_.columns;
    add_product({objective_.feedback.data() + from * columns + to, columns, matrix_.error_at(from), target(to), width, count}, matrix_.rows,
                threads_);
  }

  // What feedback has summed for columns not next in line leaves room for the errors of those between; GPTQ's weights do not. With P the
  // sums and F the feedback inside the group (ones on its diagonal), these are W + P F^-1.
  void begin_group(int64_t first, int64_t count) {
    const int64_t rows = matrix_.rows;
    group_.assign(target(first), target(first) + count * rows);
    if (has_feedback() && first > 0) {
      for (int64_t k = 0; k < count; ++k) {
        const float* weight = matrix_.weight_at(first + k);
        float* sum = group_.data() + k * rows;
        for (int64_t r = 0; r < rows; ++r) sum[r] -= weight[r];
        for (int64_t i = 0; i < k; ++i) {
          const float factor = objective_.feedback[static_cast<size_t>((first + i) * matrix_.columns + first + k)];
          const float* before = group_.data() + i * rows;
          for (int64_t r = 0; r < rows; ++r) sum[r] -= factor * before[r];
        }
      }
      for (int64_t k = 0; k < count; ++k)
        for (int64_t r = 0; r < rows; ++r) group_[static_cast<size_t>(k * rows + r)] += matrix_.weight_at(first + k)[r];
    }
    rounder_.begin_group(first, group_.data());
  }

  void round_band(int64_t k, int64_t inner_end) {
    const int64_t rows = matrix_.rows, columns = std::min(rounder_.columns(), matrix_.columns - k);
    if (const int64_t group = rounder_.group(); group > 0 && k % group == 0) begin_group(k, std::min(group, last_ - k));
    rounder_.round(k, target(k), value_.data());
    for (int64_t i = 0; i < columns; ++i) {
      const float* weight = matrix_.weight_at(k + i);
      const float* value = value_.data() + i * rows;
      const float* wanted = target(k + i);
      float* error = matrix_.error_at(k + i);
      const double share = objective_.diagonal.empty() ? 1.0 : objective_.diagonal[static_cast<size_t>(k + i)];
      for (int64_t r = 0; r < rows; ++r) {
        error[r] = weight[r] - value[r];
        const float missed = wanted[r] - value[r];
        row_error_[static_cast<size_t>(r)] += share * static_cast<double>(missed * missed);
      }
    }
    if (!has_feedback()) return;
    for (int64_t i = 0; i < columns; ++i) {
      const float* feedback = objective_.feedback.data() + (k + i) * matrix_.columns;
      const float* error = matrix_.error_at(k + i);
      for (int64_t next = k + columns; next < inner_end; ++next) {
        const float factor = feedback[next];
        float* later = target(next);
        for (int64_t r = 0; r < rows; ++r) later[r] += factor * error[r];
      }
    }
  }

  // Column k again; target(k) holds g_k. Later columns of the inner block hear of its change.
  void improve_column(int64_t k, int64_t inner, int64_t inner_end) {
    const int64_t rows = matrix_.rows;
    const float* weight = matrix_.weight_at(k);
    float* error = matrix_.error_at(k);
    float* wanted = target(k);
    float* change = change_.data() + (k - inner) * rows;
    const float* hessian = objective_.hessian.data() + k * matrix_.columns;
    const float own = hessian[k], inverse = own > 0 ? 1.0f / own : 0.0f;
    for (int64_t r = 0; r < rows; ++r) {
      row_error_[static_cast<size_t>(r)] -= static_cast<double>(wanted[r] * wanted[r] * inverse);
      wanted[r] = weight[r] - error[r] + wanted[r] * inverse;
    }
    rounder_.round(k, wanted, value_.data());
    for (int64_t r = 0; r < rows; ++r) {
      const float value = value_[static_cast<size_t>(r)], missed = wanted[r] - value, fresh = weight[r] - value;
      row_error_[static_cast<size_t>(r)] += static_cast<double>(own * missed * missed);
      change[r] = fresh - error[r];
      error[r] = fresh;
    }
    for (int64_t next = k + 1; next < inner_end; ++next) {
      const float factor = hessian[next];
      float* later = target(next);
      for (int64_t r = 0; r < rows; ++r) later[r] += factor * change[r];
    }
  }

  ColumnMatrix& matrix_;
  Rounder& rounder_;
  const Objective& objective_;
  ThreadPool* threads_;
  Buffer<float> block_;   // [kBlock, R] targets; in round_again: products with the Hessian
  Buffer<float> change_;  // [kInner, R] of the errors in round_again
  std::vector<float> value_, group_;
  std::vector<double> row_error_;  // [R]
  int64_t first_ = 0, last_ = 0;
};

// w H q and q H q of every row, q = w - e. H = I when there is none.
struct RowProducts {
  std::vector<double> cross, norm;
};
RowProducts row_products(const Objective& objective, const ColumnMatrix& matrix, ThreadPool* threads) {
  const auto rows = static_cast<size_t>(matrix.rows);
  RowProducts out{std::vector<double>(rows), std::vector<double>(rows)};
  const auto n = static_cast<int>(matrix.columns);
  for_rows(matrix.rows, threads, [&](int64_t first, int64_t count) {
    const auto size = static_cast<size_t>(count * matrix.columns);
    auto value = Buffer<float>::uninitialized(size), product = Buffer<float>::uninitialized(objective.hessian.empty() ? 0 : size);
    for (int64_t k = 0; k < matrix.columns; ++k)
      for (int64_t r = 0; r < count; ++r)
        value[static_cast<size_t>(k * count + r)] = matrix.weight_at(k)[first + r] - matrix.error_at(k)[first + r];
    if (!objective.hessian.empty())
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, static_cast<int>(count), n, 1.0f, objective.hessian.data(), n, value.data(),
                  static_cast<int>(count), 0.0f, product.data(), static_cast<int>(count));
    const Buffer<float>& weighted = objective.hessian.empty() ? value : product;
    for (int64_t k = 0; k < matrix.columns; ++k)
      for (int64_t r = 0; r < count; ++r) {
        const auto at = static_cast<size_t>(k * count + r), row = static_cast<size_t>(first + r);
        out.cross[row] += static_cast<double>(weighted[at]) * static_cast<double>(matrix.weight_at(k)[first + r]);
        out.norm[row] += static_cast<double>(weighted[at]) * static_cast<double>(value[at]);
      }
  });
  return out;
}

// e H e of every row.
std::vector<double> row_errors(const Objective& objective, const ColumnMatrix& matrix, ThreadPool* threads) {
  std::vector<double> out(static_cast<size_t>(matrix.rows));
  const auto n = static_cast<int>(matrix.columns);
  for_rows(matrix.rows, threads, [&](int64_t first, int64_t count) {
    auto product = Buffer<float>::uninitialized(static_cast<size_t>(count * matrix.columns));
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, static_cast<int>(count), n, 1.0f, objective.hessian.data(), n,
                matrix.error.data() + first, static_cast<int>(matrix.rows), 0.0f, product.data(), static_cast<int>(count));
    for (int64_t k = 0; k < matrix.columns; ++k)
      for (int64_t r = 0; r < count; ++r)
        out[static_cast<size_t>(first + r)] +=
            static_cast<double>(product[static_cast<size_t>(k * count + r)]) * static_cast<double>(matrix.error_at(k)[first + r]);
  });
  return out;
}

// Scales the decoded rows to what is best for the codes that were chosen, s = (w H q) / (q H q), and brings errors and losses up to date.
// energy: w H w, summed.
void refit_rows(ColumnMatrix& matrix, Rounder& rounder, const LoopRequest& request, std::vector<double>& row_error, double* energy) {
  const RowProducts products = row_products(*request.objective, matrix, request.threads);
  const auto rows = static_cast<size_t>(matrix.rows);
  std::vector<float> factor(rows, 1.0f);
  if (request.refit) {
    std::vector<double> best(rows, 1.0);
    for (size_t r = 0; r < rows; ++r)
      if (products.norm[r] > 0 && products.cross[r] > 0) best[r] = products.cross[r] / products.norm[r];
    factor = rounder.scale_rows(best);
  }
  *energy = 0;
  for (size_t r = 0; r < rows; ++r) {
    // With q = w - e before the factor f: w H w = 2 w H q - q H q + e H e, and what f changes in e H e is exact where f is near 1.
    const double f = static_cast<double>(factor[r]);
    *energy += 2 * products.cross[r] - products.norm[r] + row_error[r];
    row_error[r] = std::max(0.0, row_error[r] + (1 - f) * (2 * products.cross[r] - (1 + f) * products.norm[r]));
  }
  for (int64_t k = 0; k < matrix.columns; ++k) {
    const float* weight = matrix.weight_at(k);
    float* error = matrix.error_at(k);
    for (int64_t r = 0; r < matrix.rows; ++r) error[r] = weight[r] - factor[static_cast<size_t>(r)] * (weight[r] - error[r]);
  }
}

// |E|^2, and sum_k activation_k |q_k|^2, q_k the decoded columns.
void sum_squares(const ColumnMatrix& matrix, std::span<const double> activation, double* squared, double* weighted) {
  for (int64_t k = 0; k < matrix.columns; ++k) {
    const float* weight = matrix.weight_at(k);
    const float* error = matrix.error_at(k);
    double of_error = 0, of_value = 0;
    for (int64_t r = 0; r < matrix.rows; ++r) {
      const float value = weight[r] - error[r];
      of_error += static_cast<double>(error[r] * error[r]);
      of_value += static_cast<double>(value * value);
    }
    *squared += of_error;
    if (!activation.empty()) *weighted += activation[static_cast<size_t>(k)] * of_value;
  }
}

}  // namespace

ColumnMatrix read_columns(const RowSource& weight, int64_t rows, int64_t columns, const RowChange& change, ThreadPool* threads) {
  ColumnMatrix out;
  out.rows = rows, out.columns = columns;
  out.weight = Buffer<float>::uninitialized(static_cast<size_t>(rows * columns));
  out.error = Buffer<float>::uninitialized(static_cast<size_t>(rows * columns));
  constexpr int64_t kBand = 16;
  for_rows(rows, threads, [&](int64_t begin, int64_t length) {
    std::vector<float> band(static_cast<size_t>(kBand * columns));
    for (int64_t first = begin; first < begin + length; first += kBand) {
      const int64_t count = std::min(kBand, begin + length - first);
      weight(first, count, band.data());
      if (change) change(band.data(), count);
      for (int64_t k = 0; k < columns; ++k)
        for (int64_t r = 0; r < count; ++r)
          out.weight[static_cast<size_t>(k * rows + first + r)] = band[static_cast<size_t>(r * columns + k)];
    }
  });
  return out;
}

std::vector<float> row_scales(const ColumnMatrix& matrix) {
  std::vector<double> sum(static_cast<size_t>(matrix.rows));
  for (int64_t k = 0; k < matrix.columns; ++k)
    for (int64_t r = 0; r < matrix.rows; ++r) {
      const double w = matrix.weight_at(k)[r];
      sum[static_cast<size_t>(r)] += w * w;
    }
  std::vector<float> scale;
  for (const double each : sum) scale.push_back(static_cast<float>(std::sqrt(each / static_cast<double>(matrix.columns))));
  return scale;
}

Loss round_columns(ColumnMatrix& matrix, Rounder& rounder, const LoopRequest& request) {
  use_one_blas_thread();
  const Objective& objective = *request.objective;
  Loop loop(matrix, rounder, request);
  loop.run();
  const bool is_exact = objective.hessian.empty() || (!objective.feedback.empty() && rounder.columns() == 1);
  if (!is_exact) loop.row_error() = row_errors(objective, matrix, request.threads);
  Loss loss;
  refit_rows(matrix, rounder, request, loop.row_error(), &loss.energy);
  for (int pass = 0; pass < request.passes && !objective.hessian.empty(); ++pass) {
    loop.round_again();
    refit_rows(matrix, rounder, request, loop.row_error(), &loss.energy);
  }
  for (const double each : loop.row_error()) loss.error += each;
  double squared = 0;
  sum_squares(matrix, request.activation_error, &squared, &loss.activation_error);
  loss.measured_error = std::max(0.0, loss.error - objective.damping * squared);
  return loss;
}

void put_in_order(float* rows, int64_t count, const std::vector<int64_t>& order) {
  std::vector<float> row(order.size());
  for (int64_t i = 0; i < count; ++i) {
    float* values = rows + i * static_cast<int64_t>(order.size());
    std::copy_n(values, row.size(), row.data());
    for (size_t k = 0; k < row.size(); ++k) values[k] = row[static_cast<size_t>(order[k])];
  }
}

Rounded round_to_grid(const RoundRequest& request) {
  const RowChange change = [&](float* rows, int64_t count) {
    grid::rotate(rows, count, request.columns, request.sign);
    if (request.order) put_in_order(rows, count, *request.order);
  };
  std::vector<double> activation(request.activation_error.begin(), request.activation_error.end());
  if (request.order)
    for (size_t k = 0; k < activation.size(); ++k) activation[k] = request.activation_error[static_cast<size_t>((*request.order)[k])];
  ColumnMatrix matrix = read_columns(request.weight, request.rows, request.columns, change, request.threads);
  grid::GridRounder rounder({.rows = request.rows,
                             .columns = request.columns,
                             .rates = request.rates,
                             .taps = request.taps,
                             .isa = request.isa,
                             .order = request.order ? *request.order : std::vector<int64_t>(),
                             .threads = request.threads},
                            row_scales(matrix));
  Rounded out;
  out.loss = round_columns(matrix, rounder,
                           {.objective = request.objective,
                            .activation_error = activation,
                            .refit = true,
                            .passes = request.passes,
                            .threads = request.threads});
  out.parts = rounder.finish();
  return out;
}

}  // namespace tq
