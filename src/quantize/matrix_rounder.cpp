#include "quantize/matrix_rounder.h"

#include <algorithm>

#include "quantize/round_e8p.h"
#include "quantize/round_scalar.h"

namespace tq {
namespace {

// The place of the input's matrix in its stack.
int64_t matrix_of(const RoundingInput& input) { return std::max<int64_t>(0, input.expert); }

}  // namespace

Rounded MatrixRounder::round(const TensorPlan& tensor, const RoundingInput& input, ThreadPool* threads) const {
  if (tensor.method == Method::kTurboquant) return round_to_grid(grid_request(tensor, input, threads));
  return tensor.method == Method::kQuip ? to_e8p(tensor, input, threads) : to_scalar(tensor, input, threads);
}

RoundRequest MatrixRounder::grid_request(const TensorPlan& tensor, const RoundingInput& input, ThreadPool* threads) const {
  const auto& known = steps_[input.step].stored;
  const auto stored = known.find(tensor.linear.name);
  const size_t ranges = tensor.rates.size() / static_cast<size_t>(std::max<int64_t>(1, tensor.linear.experts));
  return {.weight = rows_of(tensor, input),
          .source = input.is_expert() ? nullptr : model_.find(tensor.linear.name + ".weight"),
          .stored = stored == known.end() ? nullptr : stored->second,
          .rows = tensor.linear.out,
          .columns = input.columns,
          .sign = input.sign->data(),
          .objective = &input.objective,
          .order = input.order.empty() ? nullptr : &input.order,
          .activation_error = input.activation_error,
          .rates = std::span(tensor.rates).subspan(static_cast<size_t>(matrix_of(input)) * ranges, ranges),
          .taps = &plan_.taps,
          .passes = plan_.options.passes,
          .isa = isa_,
          .threads = threads};
}

std::map<std::string, std::vector<float>> MatrixRounder::changed_vectors(size_t step) const {
  std::map<std::string, std::vector<float>> changed;
  for (const Fold& fold : steps_[step].folds) {
    if (!fold.is_norm && !fold.has_bias) continue;
    const std::string name = fold.name + (fold.is_norm ? ".weight" : ".bias");
    const Buffer<float> old = decode(*model_.find(name));
    std::vector<float> values(old.begin(), old.end());
    const float offset = fold.is_norm ? model_.spec.norm_offset : 0.0f;
    const std::vector<float>& scale = inputs_.scale_of(step, fold.tap);
    for (size_t k = 0; k < scale.size(); ++k) {
      float& value = values[static_cast<size_t>(fold.first_row) + k];
      value = (value + offset) / scale[k] - offset;
    }
    changed[name] = std::move(values);
  }
  return changed;
}

MatrixRounder::Divisors MatrixRounder::divisors(size_t step, const std::string& name) const {
  for (const Fold& fold : steps_[step].folds)
    if (!fold.is_norm && fold.name == name) return {inputs_.scale_of(step, fold.tap), fold.first_row};
  return {};
}

RowSource MatrixRounder::rows_of(const TensorPlan& tensor, const RoundingInput& input) const {
  const PackedTensor& stored = *model_.find(tensor.linear.name + ".weight");
  const int64_t start = matrix_of(input) * tensor.linear.out;
  return [&stored, start](int64_t first, int64_t count, float* out) { decode_rows(stored, start + first, count, out); };
}

// AWQ: columns times the scales of the input, rows divided by those of what they lead to.
RowSource MatrixRounder::scaled_rows(const TensorPlan& tensor, const RoundingInput& input) const {
  return [stored = rows_of(tensor, input), divisor = divisors(input.step, tensor.linear.name), &input](int64_t first, int64_t count,
                                                                                                       float* out) {
    stored(first, count, out);
    for (int64_t i = 0; i < count; ++i) {
      const float d = divisor.of(first + i);
      for (int64_t k = 0; k < input.columns; ++k)
        out[i * input.columns + k] *= (input.scale.empty() ? 1.0f : input.scale[static_cast<size_t>(k)]) / d;
    }
  };
}

Rounded MatrixRounder::to_e8p(const TensorPlan& tensor, const RoundingInput& input, ThreadPool* threads) const {
  const std::string name = fmt::format("{} {} rows", tensor.linear.name, matrix_of(input));
  return round_to_e8p({.weight = rows_of(tensor, input),
                       .rows = tensor.linear.out,
                       .columns = input.columns,
                       .bits = tensor.bits(),
                       .sign = input.sign->data(),
                       .row_sign = sign_of(name, tensor.linear.out, plan_.options.seed),
                       .has_row_scale = tensor.has_row_scale,
                       .objective = &input.objective,
                       .threads = threads});
}

Rounded MatrixRounder::to_scalar(const TensorPlan& tensor, const RoundingInput& input, ThreadPool* threads) const {
  const Role role = tensor.linear.role;
  const bool is_awq = tensor.method == Method::kAwq;
  const bool is_clipped = role != Role::kQuery && role != Role::kKey && role != Role::kFusedQkv;  // as the paper's program does
  return round_to_scalar({.weight = is_awq ? scaled_rows(tensor, input) : rows_of(tensor, input),
                          .rows = tensor.linear.out,
                          .columns = input.columns,
                          .group = tensor.group,
                          .bits = tensor.bits(),
                          .objective = &input.objective,
                          .order = input.order.empty() ? nullptr : &input.order,
                          .searches_clip = is_awq && is_clipped,
                          .threads = threads});
}

}  // namespace tq
