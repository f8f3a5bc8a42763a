#include "quantize/round_scalar.h"

#include <algorithm>

#include "codec/scalar/scalar.h"
#include "quantize/awq.h"

namespace tq {
namespace {

constexpr int64_t kBlockRows = 256;

// Ranges of whole rows, which no loop over columns could find on its way.
std::vector<scalar::Range> row_ranges(const ColumnMatrix& matrix, int bits) {
  std::vector<float> least(static_cast<size_t>(matrix.rows)), greatest(static_cast<size_t>(matrix.rows));
  for (int64_t k = 0; k < matrix.columns; ++k)
    for (int64_t r = 0; r < matrix.rows; ++r) {
      const float w = matrix.weight_at(k)[r];
      least[static_cast<size_t>(r)] = std::min(least[static_cast<size_t>(r)], w);
      greatest[static_cast<size_t>(r)] = std::max(greatest[static_cast<size_t>(r)], w);
    }
  std::vector<scalar::Range> ranges;
  for (size_t r = 0; r < least.size(); ++r) ranges.push_back(scalar::min_max_range(least[r], greatest[r], bits));
  return ranges;
}

std::vector<scalar::Range> clipped_ranges(const ScalarRequest& request) {
  awq::Reader reader{Buffer<float>::uninitialized(static_cast<size_t>(request.rows * request.columns)), request.rows, request.bits};
  request.weight(0, request.rows, reader.weight.data());
  const awq::Input input{.columns = request.columns, .group = request.group, .hessian = &request.objective->hessian};
  return awq::search_ranges(input, reader);
}

Rounded round_block(const ScalarRequest& request) {
  RowChange change;
  if (request.order) change = [&](float* rows, int64_t count) { put_in_order(rows, count, *request.order); };
  ColumnMatrix matrix = read_columns(request.weight, request.rows, request.columns, change, nullptr);
  scalar::ScalarRounder::Settings settings{
      .rows = request.rows, .columns = request.columns, .group = request.group, .bits = request.bits, .order = {}, .ranges = {}};
  if (request.order) settings.order = *request.order;
  if (request.searches_clip && !request.objective->hessian.empty()) settings.ranges = clipped_ranges(request);
  else if (request.group == request.columns) settings.ranges = row_ranges(matrix, request.bits);
  scalar::ScalarRounder rounder(std::move(settings));
  Rounded out;
  out.loss = round_columns(matrix, rounder, {.objective = request.objective});
  out.parts = rounder.finish();
  return out;
}

// Puts the rows of `next` behind those of `all`.
void append(Rounded& all, const Rounded& next) {
  all.loss.error += next.loss.error, all.loss.energy += next.loss.energy;
  all.loss.measured_error += next.loss.measured_error;
  for (size_t p = 0; p < all.parts.size(); ++p) {
    auto& bytes = all.parts[p].bytes;
    if (all.parts[p].name == "scalar" || all.parts[p].name == "order") continue;  // of the matrix, not of rows
    bytes.insert(bytes.end(), next.parts[p].bytes.begin(), next.parts[p].bytes.end());
  }
}

}  // namespace

Status check_scalar_sizes(const QuantizePlan& plan) {
  for (const TensorPlan* tensor : plan.tensors()) {
    if (tensor->method == Method::kTurboquant || tensor->method == Method::kQuip) continue;
    const Linear& linear = tensor->linear;
    if (tensor->group > scalar::kLargestGroup)
      return bad_usage("--group {}: {} has {} columns, a scale is for at most {}; give 128", plan.options.group, linear.name, linear.in,
                       scalar::kLargestGroup);
    if (tensor->has_order && linear.in > scalar::kMostOrdered)
      return bad_usage("--method {}: {} has {} columns, at most {} can be put in order; give --act-order off", method_name(tensor->method),
                       linear.name, linear.in, scalar::kMostOrdered);
  }
  return {};
}

Rounded round_to_scalar(const ScalarRequest& request) {
  static_assert(kBlockRows % 8 == 0);  // so that the packed zero points of a block end with a byte
  std::vector<Rounded> blocks(static_cast<size_t>((request.rows + kBlockRows - 1) / kBlockRows));
  run_on(request.threads, static_cast<int64_t>(blocks.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      ScalarRequest block = request;
      block.rows = std::min(kBlockRows, request.rows - i * kBlockRows);
      block.weight = [&, i](int64_t first, int64_t count, float* out) { request.weight(i * kBlockRows + first, count, out); };
      blocks[static_cast<size_t>(i)] = round_block(block);
    }
  });
  for (size_t i = 1; i < blocks.size(); ++i) append(blocks[0], blocks[i]);
  return std::move(blocks[0]);
}

}  // namespace tq
