#include "quantize/round.h"

#include <algorithm>
#include <cmath>

#include "base/float16.h"
#include "codec/grid/encoder.h"
#include "quantize/blas.h"

namespace tq {
namespace {

constexpr int64_t kBlock = 128;  // columns whose feedback from before is summed at once

// All matrices here are kept column by column, [C, R], so that what happens to a column is contiguous.
struct Columns {
  int64_t rows = 0, columns = 0;
  Buffer<float> weight;  // W' in the rotated basis
  Buffer<float> value;   // what the code says, before the row scale
  Buffer<float> error;   // W' - s V

  float* at(Buffer<float>& matrix, int64_t column) const { return matrix.data() + column * rows; }
};

Columns rotated_columns(const RoundRequest& request) {
  Columns out;
  out.rows = request.rows, out.columns = request.columns;
  const auto count = static_cast<size_t>(request.rows * request.columns);
  out.weight = Buffer<float>::uninitialized(count);
  out.value = Buffer<float>::uninitialized(count);
  out.error = Buffer<float>::uninitialized(count);
  constexpr int64_t kBand = 16;
  std::vector<float> band(static_cast<size_t>(kBand * request.columns));
  for (int64_t first = 0; first < request.rows; first += kBand) {
    const int64_t count_here = std::min(kBand, request.rows - first);
    std::copy_n(request.weight + first * request.columns, count_here * request.columns, band.data());
    grid::rotate(band.data(), count_here, request.columns, request.sign);
    for (int64_t k = 0; k < request.columns; ++k)
      for (int64_t r = 0; r < count_here; ++r)
        out.weight[static_cast<size_t>(k * request.rows + first + r)] = band[static_cast<size_t>(r * request.columns + k)];
  }
  return out;
}

// The root mean square of each row: the codes are made for a unit Gaussian.
std::vector<float> initial_scales(const Columns& columns) {
  std::vector<double> sum(static_cast<size_t>(columns.rows));
  for (int64_t k = 0; k < columns.columns; ++k)
    for (int64_t r = 0; r < columns.rows; ++r) {
      const double w = columns.weight[static_cast<size_t>(k * columns.rows + r)];
      sum[static_cast<size_t>(r)] += w * w;
    }
  std::vector<float> scale;
  for (const double each : sum)
    scale.push_back(f16_to_float(float_to_f16(static_cast<float>(std::sqrt(each / static_cast<double>(columns.columns))))));
  return scale;
}

class Rounder {
 public:
  Rounder(const RoundRequest& request, Columns& columns, const std::vector<float>& scale)
      : request_(request),
        columns_(columns),
        scale_(scale),
        layout_(request.rows, request.columns, request.rates),
        encoder_(layout_, *request.taps, request.isa),
        target_(static_cast<size_t>(request.rows)),
        inverse_(target_.size()),
        metric_(target_.size()),
        string_(static_cast<size_t>(layout_.plane_rows)) {
    for (size_t r = 0; r < scale.size(); ++r) {
      inverse_[r] = scale[r] > 0 ? 1.0f / scale[r] : 0.0f;
      metric_[r] = scale[r] > 0 ? scale[r] * scale[r] : -1.0f;
    }
  }

  Buffer<uint8_t> run() {
    Buffer<uint8_t> bits(layout_.bytes());
    for (int64_t first = 0; first < columns_.columns; first += kBlock) {
      const int64_t last = std::min(columns_.columns, first + kBlock);
      start_block(first, last);
      for (int64_t k = first; k < last; ++k) round_column(k, last, bits.data());
    }
    return bits;
  }

 private:
  bool has_feedback() const { return !request_.objective->feedback.empty(); }

  // block_ = W' of the block + the fed-back errors of all columns before it.
  void start_block(int64_t first, int64_t last) {
    const int64_t rows = columns_.rows, width = last - first;
    if (block_.empty()) block_ = Buffer<float>::uninitialized(static_cast<size_t>(kBlock * rows));
    std::copy_n(columns_.at(columns_.weight, first), width * rows, block_.data());
    first_ = first;
    if (first == 0 || !has_feedback()) return;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<int>(width), static_cast<int>(rows), static_cast<int>(first), 1.0f,
                request_.objective->feedback.data() + first, static_cast<int>(columns_.columns), columns_.error.data(),
                static_cast<int>(rows), 1.0f, block_.data(), static_cast<int>(rows));
  }

  void round_column(int64_t k, int64_t block_end, uint8_t* bits) {
    const int64_t rows = columns_.rows;
    const float* wanted = block_.data() + (k - first_) * rows;
    float* value = columns_.at(columns_.value, k);
    float* error = columns_.at(columns_.error, k);
    const float* weight = columns_.at(columns_.weight, k);
    for (int64_t r = 0; r < rows; ++r) target_[static_cast<size_t>(r)] = wanted[r] * inverse_[static_cast<size_t>(r)];
    encoder_.encode(target_.data(), metric_.data(), string_.data(), value);
    grid::store_column(layout_, k, string_.data(), bits);
    for (int64_t r = 0; r < rows; ++r) error[r] = weight[r] - scale_[static_cast<size_t>(r)] * value[r];
    if (!has_feedback()) return;
    const float* feedback = request_.objective->feedback.data() + k * columns_.columns;
    for (int64_t next = k + 1; next < block_end; ++next) {
      const float factor = feedback[next];
      float* later = block_.data() + (next - first_) * rows;
      for (int64_t r = 0; r < rows; ++r) later[r] += factor * error[r];
    }
  }

  const RoundRequest& request_;
  Columns& columns_;
  const std::vector<float>& scale_;
  grid::Layout layout_;
  grid::ColumnEncoder encoder_;
  std::vector<float> target_, inverse_, metric_;
  std::vector<uint8_t> string_;
  Buffer<float> block_;  // [kBlock, R]
  int64_t first_ = 0;
};

// out[C, R] = H in[C, R]; H = I when there is none.
void apply_hessian(const Objective& objective, const Columns& columns, const Buffer<float>& in, Buffer<float>& out) {
  const int n = static_cast<int>(columns.columns), rows = static_cast<int>(columns.rows);
  if (objective.hessian.empty()) {
    std::copy(in.begin(), in.end(), out.begin());
    return;
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, rows, n, 1.0f, objective.hessian.data(), n, in.data(), rows, 0.0f, out.data(),
              rows);
}

// Row-wise dot products of two [C, R] matrices.
std::vector<double> row_products(const Columns& columns, const Buffer<float>& a, const Buffer<float>& b) {
  std::vector<double> sum(static_cast<size_t>(columns.rows));
  for (int64_t k = 0; k < columns.columns; ++k)
    for (int64_t r = 0; r < columns.rows; ++r) {
      const auto at = static_cast<size_t>(k * columns.rows + r);
      sum[static_cast<size_t>(r)] += static_cast<double>(a[at]) * b[at];
    }
  return sum;
}

// s_r = (w_r H v_r) / (v_r H v_r), the best scale for the bits that were chosen. Returns tr(E H E^T) with it.
double refit_scales(const Objective& objective, Columns& columns, std::vector<float>& scale, double* energy) {
  Buffer<float>& product = columns.error;  // no longer needed
  apply_hessian(objective, columns, columns.value, product);
  const std::vector<double> cross = row_products(columns, columns.weight, product);
  const std::vector<double> norm = row_products(columns, columns.value, product);
  apply_hessian(objective, columns, columns.weight, product);
  const std::vector<double> own = row_products(columns, columns.weight, product);
  double error = 0;
  *energy = 0;
  for (size_t r = 0; r < scale.size(); ++r) {
    const double best = norm[r] > 0 && cross[r] > 0 ? cross[r] / norm[r] : scale[r];
    if (scale[r] > 0) scale[r] = f16_to_float(float_to_f16(static_cast<float>(best)));
    error += own[r] - 2 * scale[r] * cross[r] + static_cast<double>(scale[r]) * scale[r] * norm[r];
    *energy += own[r];
  }
  return error;
}

}  // namespace

Rounded round_to_grid(const RoundRequest& request) {
  use_one_blas_thread();
  Columns columns = rotated_columns(request);
  std::vector<float> scale = initial_scales(columns);
  Rounded out;
  out.bits = Rounder(request, columns, scale).run();
  out.error = refit_scales(*request.objective, columns, scale, &out.energy);
  for (const float each : scale) out.row_scale.push_back(float_to_f16(each));
  return out;
}

}  // namespace tq
