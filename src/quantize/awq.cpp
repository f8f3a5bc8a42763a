#include "quantize/awq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/blas.h"

namespace tq::awq {
namespace {

constexpr int kSteps = 20;
constexpr int64_t kBlockRows = 256;

// The least and greatest of a group's weights, clamped to +-limit.
scalar::Range range_of(const float* weight, int64_t count, float limit, int bits) {
  float least = 0, greatest = 0;
  for (int64_t k = 0; k < count; ++k) least = std::min(least, weight[k]), greatest = std::max(greatest, weight[k]);
  return scalar::min_max_range(std::max(least, -limit), std::min(greatest, limit), bits);
}

float rounding_error(float w, const scalar::Range& range, int bits) {
  return w - scalar::value_of(scalar::nearest_code(w, range, bits), range);
}

// tr(D H D^T), D [R, size] row by row, H size x size with `stride` floats a row; of every row apart.
template <typename Take>
void losses_of(const Buffer<float>& difference, int64_t rows, int64_t size, const float* hessian, int64_t stride, Buffer<float>& product,
               const Take& take) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(rows), static_cast<int>(size), static_cast<int>(size), 1.0f,
              difference.data(), static_cast<int>(size), hessian, static_cast<int>(stride), 0.0f, product.data(), static_cast<int>(size));
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t k = 0; k < size; ++k) {
      const auto at = static_cast<size_t>(r * size + k);
      sum += static_cast<double>(difference[at] * product[at]);
    }
    take(r, sum);
  }
}

std::vector<float> scales_of(std::span<const double> magnitude, double ratio) {
  std::vector<float> scale;
  for (const double each : magnitude) scale.push_back(static_cast<float>(std::max(std::pow(each, ratio), 1e-4)));
  const auto [least, greatest] = std::minmax_element(scale.begin(), scale.end());
  const float middle = std::sqrt(*least * *greatest);
  for (float& each : scale) each /= middle;
  return scale;
}

// Rows of a reader that one thread looks at.
struct Rows {
  const Reader* reader = nullptr;
  int64_t first = 0, count = 0;
};

std::vector<Rows> rows_of(std::span<const Reader> readers) {
  std::vector<Rows> blocks;
  for (const Reader& reader : readers)
    for (int64_t first = 0; first < reader.rows; first += kBlockRows)
      blocks.push_back({&reader, first, std::min(kBlockRows, reader.rows - first)});
  return blocks;
}

// W - Q(W diag(s)) diag(1 / s), by groups.
void scaled_errors(const Input& input, const Rows& rows, const std::vector<float>& scale, Buffer<float>& out) {
  const int bits = rows.reader->bits;
  std::vector<float> scaled(static_cast<size_t>(input.group));
  for (int64_t r = 0; r < rows.count; ++r)
    for (int64_t first = 0; first < input.columns; first += input.group) {
      const float* weight = rows.reader->weight.data() + (rows.first + r) * input.columns + first;
      for (int64_t k = 0; k < input.group; ++k) scaled[static_cast<size_t>(k)] = weight[k] * scale[static_cast<size_t>(first + k)];
      const scalar::Range range = range_of(scaled.data(), input.group, HUGE_VALF, bits);
      for (int64_t k = 0; k < input.group; ++k)
        out[static_cast<size_t>(r * input.columns + first + k)] =
            rounding_error(scaled[static_cast<size_t>(k)], range, bits) / scale[static_cast<size_t>(first + k)];
    }
}

// What the rows lose with the scales s.
double scaled_loss(const Input& input, const Rows& rows, const std::vector<float>& scale) {
  auto difference = Buffer<float>::uninitialized(static_cast<size_t>(rows.count * input.columns));
  auto product = Buffer<float>::uninitialized(difference.size());
  scaled_errors(input, rows, scale, difference);
  double loss = 0;
  losses_of(difference, rows.count, input.columns, input.hessian->data(), input.columns, product,
            [&](int64_t, double row) { loss += row; });
  return loss;
}

// The best ranges of group g -> best [R].
void search_group(const Input& input, const Reader& reader, int64_t g, std::vector<scalar::Range>& best) {
  const int64_t group = input.group;
  const int bits = reader.bits;
  auto difference = Buffer<float>::uninitialized(static_cast<size_t>(reader.rows * group));
  auto product = Buffer<float>::uninitialized(difference.size());
  std::vector<double> least(static_cast<size_t>(reader.rows), HUGE_VAL);
  std::vector<scalar::Range> ranges(least.size());
  best.resize(least.size());
  for (int step = 0; step < kSteps / 2; ++step) {
    for (int64_t r = 0; r < reader.rows; ++r) {
      const float* weight = reader.weight.data() + r * input.columns + g * group;
      float largest = 0;
      for (int64_t k = 0; k < group; ++k) largest = std::max(largest, std::fabs(weight[k]));
      const scalar::Range range = range_of(weight, group, largest * (1.0f - static_cast<float>(step) / kSteps), bits);
      for (int64_t k = 0; k < group; ++k) difference[static_cast<size_t>(r * group + k)] = rounding_error(weight[k], range, bits);
      ranges[static_cast<size_t>(r)] = range;
    }
    losses_of(difference, reader.rows, group, input.hessian->data() + g * group * (input.columns + 1), input.columns, product,
              [&](int64_t row, double loss) {
                const auto r = static_cast<size_t>(row);
                if (loss < least[r]) least[r] = loss, best[r] = ranges[r];
              });
  }
}

}  // namespace

std::vector<float> search_scales(const Input& input, std::span<const Reader> readers, ThreadPool* threads) {
  use_one_blas_thread();
  std::vector<std::vector<float>> scales;
  for (int step = 0; step < kSteps; ++step) scales.push_back(scales_of(input.magnitude, static_cast<double>(step) / kSteps));
  const std::vector<Rows> blocks = rows_of(readers);
  const auto count = static_cast<int64_t>(blocks.size());
  std::vector<double> losses(static_cast<size_t>(kSteps * count));  // [step, block]
  run_on(threads, kSteps * count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      losses[static_cast<size_t>(i)] = scaled_loss(input, blocks[static_cast<size_t>(i % count)], scales[static_cast<size_t>(i / count)]);
  });
  size_t best = 0;
  double least = HUGE_VAL;
  for (size_t step = 0; step < scales.size(); ++step) {
    const auto first = losses.begin() + static_cast<int64_t>(step) * count;
    const double loss = std::accumulate(first, first + count, 0.0);
    if (loss < least) least = loss, best = step;
  }
  return std::move(scales[best]);
}

std::vector<scalar::Range> search_ranges(const Input& input, const Reader& reader) {
  use_one_blas_thread();
  const int64_t group = input.group, groups = input.columns / group;
  std::vector<scalar::Range> found(static_cast<size_t>(reader.rows * groups));
  std::vector<scalar::Range> best;
  for (int64_t g = 0; g < groups; ++g) {
    search_group(input, reader, g, best);
    for (int64_t r = 0; r < reader.rows; ++r) found[static_cast<size_t>(r * groups + g)] = best[static_cast<size_t>(r)];
  }
  return found;
}

}  // namespace tq::awq
