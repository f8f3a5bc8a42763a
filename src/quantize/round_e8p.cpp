#include "quantize/round_e8p.h"

#include <cmath>
#include <span>

#include "base/float16.h"
#include "codec/e8p/e8p_rounder.h"

namespace tq {
namespace {

// The second moment is symmetric, so both sides are its rows, before and after a transposition.
void transform_both(Buffer<float>& hessian, int64_t n, const e8p::Transform& transform, const uint8_t* sign) {
  for (int side = 0; side < 2; ++side) {
    for (int64_t i = 0; i < n; ++i) transform.apply(hessian.data() + i * n, sign);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < i; ++j) std::swap(hessian[static_cast<size_t>(i * n + j)], hessian[static_cast<size_t>(j * n + i)]);
  }
}

float root_mean_square(const Buffer<float>& values) {
  double sum = 0;
  for (const float x : values) sum += static_cast<double>(x) * static_cast<double>(x);
  return static_cast<float>(std::sqrt(sum / static_cast<double>(values.size())));
}

RoundedPart ones(int64_t rows) {
  const std::vector<uint16_t> halves(static_cast<size_t>(rows), float_to_f16(1.0f));
  const auto bytes = std::as_bytes(std::span<const uint16_t>(halves));
  return {"row_scale", DType::kF16, {bytes.begin(), bytes.end()}};
}

}  // namespace

Objective e8p_objective(Buffer<float> hessian, int64_t columns, const uint8_t* sign, double damping) {
  transform_both(hessian, columns, e8p::Transform(columns), sign);
  return factored_objective(std::move(hessian), columns, damping, e8p::kWidth);
}

Rounded round_to_e8p(const E8pRequest& request) {
  const e8p::Transform of_row(request.columns), of_column(request.rows);
  const RowChange change = [&](float* rows, int64_t count) {
    for (int64_t i = 0; i < count; ++i) of_row.apply(rows + i * request.columns, request.sign);
  };
  ColumnMatrix matrix = read_columns(request.weight, request.rows, request.columns, change, request.threads);
  run_on(request.threads, request.columns, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t k = begin; k < end; ++k) of_column.apply(matrix.weight.data() + k * request.rows, request.row_sign.data());
  });
  e8p::E8pRounder rounder(request.rows, request.columns, request.bits, root_mean_square(matrix.weight), request.row_sign, request.threads);
  Rounded out;
  out.loss = round_columns(matrix, rounder, {.objective = request.objective, .threads = request.threads});
  out.parts = rounder.finish();
  if (request.has_row_scale) out.parts.push_back(ones(request.rows));
  return out;
}

}  // namespace tq
