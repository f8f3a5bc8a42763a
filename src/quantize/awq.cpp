#include "quantize/awq.h"

#include <algorithm>
#include <cmath>

#include "base/blas.h"

namespace tq::awq {
namespace {

constexpr int kSteps = 20;

// The least and greatest of a group's weights, clamped to +-limit.
scalar::Range range_of(const float* weight, int64_t count, float limit, int bits) {
  float least = 0, greatest = 0;
  for (int64_t k = 0; k < count; ++k) least = std::min(least, weight[k]), greatest = std::max(greatest, weight[k]);
  return scalar::min_max_range(std::max(least, -limit), std::min(greatest, limit), bits);
}

float rounding_error(float w, const scalar::Range& range, int bits) {
  return w - scalar::value_of(scalar::nearest_code(w, range, bits), range);
}

// tr(D H D^T), D [R, C] row by row.
double loss_of(const Buffer<float>& difference, int64_t rows, int64_t columns, const Buffer<float>& hessian, Buffer<float>& product) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(columns), 1.0f,
              difference.data(), static_cast<int>(columns), hessian.data(), static_cast<int>(columns), 0.0f, product.data(),
              static_cast<int>(columns));
  double sum = 0;
  for (size_t i = 0; i < difference.size(); ++i) sum += static_cast<double>(difference[i] * product[i]);
  return sum;
}

std::vector<float> scales_of(std::span<const double> magnitude, double ratio) {
  std::vector<float> scale;
  for (const double each : magnitude) scale.push_back(static_cast<float>(std::max(std::pow(each, ratio), 1e-4)));
  const auto [least, greatest] = std::minmax_element(scale.begin(), scale.end());
  const float middle = std::sqrt(*least * *greatest);
  for (float& each : scale) each /= middle;
  return scale;
}

// W - Q(W diag(s)) diag(1 / s), by groups.
void scaled_errors(const Input& input, const Reader& reader, const std::vector<float>& scale, Buffer<float>& out) {
  std::vector<float> scaled(static_cast<size_t>(input.group));
  for (int64_t r = 0; r < reader.rows; ++r)
    for (int64_t first = 0; first < input.columns; first += input.group) {
      const float* weight = reader.weight.data() + r * input.columns + first;
      for (int64_t k = 0; k < input.group; ++k) scaled[static_cast<size_t>(k)] = weight[k] * scale[static_cast<size_t>(first + k)];
      const scalar::Range range = range_of(scaled.data(), input.group, HUGE_VALF, input.bits);
      for (int64_t k = 0; k < input.group; ++k)
        out[static_cast<size_t>(r * input.columns + first + k)] =
            rounding_error(scaled[static_cast<size_t>(k)], range, input.bits) / scale[static_cast<size_t>(first + k)];
    }
}

}  // namespace

std::vector<float> search_scales(const Input& input, std::span<const Reader> readers) {
  use_one_blas_thread();
  std::vector<float> best_scale(static_cast<size_t>(input.columns), 1.0f);
  double best = HUGE_VAL;
  for (int step = 0; step < kSteps; ++step) {
    const std::vector<float> scale = scales_of(input.magnitude, static_cast<double>(step) / kSteps);
    double loss = 0;
    for (const Reader& reader : readers) {
      auto difference = Buffer<float>::uninitialized(reader.weight.size()), product = Buffer<float>::uninitialized(reader.weight.size());
      scaled_errors(input, reader, scale, difference);
      loss += loss_of(difference, reader.rows, input.columns, *input.hessian, product);
    }
    if (loss < best) best = loss, best_scale = scale;
  }
  return best_scale;
}

std::vector<scalar::Range> search_ranges(const Input& input, const Reader& reader, bool clips) {
  use_one_blas_thread();
  const int64_t group = input.group, groups = input.columns / group, rows = reader.rows;
  std::vector<scalar::Range> best(static_cast<size_t>(rows * groups));
  auto difference = Buffer<float>::uninitialized(static_cast<size_t>(rows * group));
  auto product = Buffer<float>::uninitialized(difference.size());
  std::vector<double> least(static_cast<size_t>(rows));
  for (int64_t g = 0; g < groups; ++g) {
    std::fill(least.begin(), least.end(), HUGE_VAL);
    for (int step = 0; step < (clips ? kSteps / 2 : 1); ++step) {
      std::vector<scalar::Range> ranges;
      for (int64_t r = 0; r < rows; ++r) {
        const float* weight = reader.weight.data() + r * input.columns + g * group;
        float largest = 0;
        for (int64_t k = 0; k < group; ++k) largest = std::max(largest, std::fabs(weight[k]));
        ranges.push_back(range_of(weight, group, largest * (1.0f - static_cast<float>(step) / kSteps), input.bits));
        for (int64_t k = 0; k < group; ++k)
          difference[static_cast<size_t>(r * group + k)] = rounding_error(weight[k], ranges.back(), input.bits);
      }
      const auto size = static_cast<int>(group);
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(rows), size, size, 1.0f, difference.data(), size,
                  input.hessian->data() + g * group * input.columns + g * group, static_cast<int>(input.columns), 0.0f, product.data(),
                  size);
      for (int64_t r = 0; r < rows; ++r) {
        double loss = 0;
        for (int64_t k = 0; k < group; ++k) {
          const auto at = static_cast<size_t>(r * group + k);
          loss += static_cast<double>(difference[at] * product[at]);
        }
        if (loss < least[static_cast<size_t>(r)])
          least[static_cast<size_t>(r)] = loss, best[static_cast<size_t>(r * groups + g)] = ranges[static_cast<size_t>(r)];
      }
    }
  }
  return best;
}

}  // namespace tq::awq
