#include "quantize/device_rounding.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/float16.h"
#include "kernels/device_quantizer.h"

namespace tq {
namespace {

constexpr double kMemoryShare = 0.8;  // of what the device has free

uint64_t square_bytes(int64_t columns) { return static_cast<uint64_t>(columns * columns) * sizeof(float); }

// Weight, code, error, symbols and a block of targets.
uint64_t matrix_bytes(int64_t rows, int64_t columns) { return static_cast<uint64_t>(rows) * (static_cast<uint64_t>(columns) * 13 + 1024); }

// e H e of a row whose decoded form is scaled by f.
double row_error(const RowSums& sums, size_t r, double f) {
  return std::max(0.0, sums.own[r] + f * (f * sums.norm[r] - 2 * sums.cross[r]));
}

// Refits the scales and sums the loss, as round_columns does.
Rounded finish(const RoundRequest& request, const RoundedMatrix& matrix) {
  Rounded out;
  std::vector<uint16_t> halves;
  double squared = 0;
  for (size_t r = 0; r < matrix.scale.size(); ++r) {
    const RowSums& sums = matrix.under_hessian;
    float scale = matrix.scale[r];
    double f = 1;
    if (scale > 0 && sums.norm[r] > 0 && sums.cross[r] > 0) {
      const float best = f16_to_float(float_to_f16(static_cast<float>(scale * (sums.cross[r] / sums.norm[r]))));
      if (best > 0) f = static_cast<double>(best) / static_cast<double>(scale), scale = best;
    }
    halves.push_back(float_to_f16(scale));
    out.loss.error += row_error(sums, r, f), out.loss.energy += sums.own[r];
    squared += row_error(matrix.plain, r, f);
    if (!matrix.cost.empty()) out.loss.activation_error += f * f * matrix.cost[r];
  }
  out.loss.measured_error = std::max(0.0, out.loss.error - request.objective->damping * squared);
  out.parts.push_back(part_of("bits", DType::kU8, matrix.bits));
  out.parts.push_back(part_of("row_scale", DType::kF16, halves));
  out.parts.push_back(part_of("rates", DType::kU8, request.rates));
  return out;
}

class Batches {
 public:
  Batches(const std::vector<RoundRequest>& requests, Backend& backend, const Context& context)
      : requests_(requests),
        backend_(backend),
        context_(context),
        budget_(kMemoryShare * static_cast<double>(backend.quantizer()->free_bytes())) {}

  Result<std::vector<Rounded>> run() {
    for (size_t begin = 0; begin < requests_.size();) {
      if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      const size_t end = end_of_batch(begin);
      TQ_TRY(round(begin, end));
      begin = end;
    }
    return std::move(out_);
  }

 private:
  // As many as fit; at least one.
  size_t end_of_batch(size_t begin) const {
    std::set<const Objective*> objectives;
    double bytes = 0;
    for (size_t i = begin; i < requests_.size(); ++i) {
      const RoundRequest& each = requests_[i];
      bytes += static_cast<double>(matrix_bytes(each.rows, each.columns));
      if (!each.objective->is_on_device() && objectives.insert(each.objective).second)
        bytes += 2 * static_cast<double>(square_bytes(each.columns));
      if (bytes > budget_ && i > begin) return i;
    }
    return requests_.size();
  }

  Status round(size_t begin, size_t end) {
    std::vector<std::vector<uint8_t>> rates;
    for (size_t i = begin; i < end; ++i) rates.push_back(grid::Layout(requests_[i].rows, requests_[i].columns, requests_[i].rates).rate);
    RoundBatch batch{.matrices = {}, .columns = requests_[begin].columns, .taps = {}};
    for (size_t rate = 0; rate < requests_[begin].taps->size(); ++rate) batch.taps[rate] = (*requests_[begin].taps)[rate];
    std::map<std::pair<const void*, const uint8_t*>, int64_t> known;  // by source and sign
    for (size_t i = begin; i < end; ++i) {
      batch.matrices.push_back(matrix_of(requests_[i], rates[i - begin]));
      if (!requests_[i].source || requests_[i].stored) continue;  // what is trained may have changed
      const auto [same, is_new] = known.try_emplace({requests_[i].source, requests_[i].sign}, static_cast<int64_t>(i - begin));
      if (!is_new) batch.matrices.back().same_as = same->second;
    }
    std::vector<RoundedMatrix> rounded;
    const std::string error = backend_.quantizer()->round(batch, rounded);
    if (!error.empty()) return fail(ErrorCode::kFailed, "rounding on {} failed: {}", backend_.name(), error);
    for (size_t i = begin; i < end; ++i) out_.push_back(finish(requests_[i], rounded[i - begin]));
    return {};
  }

  static RoundMatrix matrix_of(const RoundRequest& request, const std::vector<uint8_t>& rates) {
    const Objective& objective = *request.objective;
    RoundMatrix matrix{.rows = request.rows, .rate = rates.data(), .read = request.weight, .stored = request.stored, .sign = request.sign};
    matrix.is_resident = objective.is_on_device();
    if (matrix.is_resident) {
      matrix.feedback = objective.device_feedback.as<float>(), matrix.hessian = objective.device_hessian.as<float>();
    } else if (!objective.feedback.empty()) {
      matrix.feedback = objective.feedback.data(), matrix.hessian = objective.hessian.data();
    }
    if (matrix.feedback) matrix.diagonal = objective.diagonal.data();
    if (!request.activation_error.empty()) matrix.column_cost = request.activation_error.data();
    return matrix;
  }

  const std::vector<RoundRequest>& requests_;
  Backend& backend_;
  const Context& context_;
  double budget_;
  std::vector<Rounded> out_;
};

}  // namespace

bool device_can_round(std::span<const uint8_t> rates, int64_t rows, const grid::TapsByRate& taps) {
  return rows >= kLeastDeviceRows && std::all_of(rates.begin(), rates.end(), [&](uint8_t rate) {
           return rate >= grid::kMinRate && static_cast<int>(taps[rate].size()) - rate <= kMostDeviceHistory;
         });
}

Result<std::vector<Rounded>> round_on_device(const std::vector<RoundRequest>& requests, Backend& backend, const Context& context) {
  return Batches(requests, backend, context).run();
}

}  // namespace tq
