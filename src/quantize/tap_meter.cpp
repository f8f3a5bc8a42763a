#include "quantize/tap_meter.h"

#include "kernels/device_quantizer.h"
#include "quantize/plan.h"

namespace tq {
namespace {

// On a device: every so many sequences are enough to tell what int8 costs.
constexpr int64_t kSampledSequences = 8;

// Free memory of a device on which second moments stay, in sums of them: their factors, and what rounding takes beside them.
constexpr uint64_t kRoom = 6;

}  // namespace

TapSink TapMeter::sink(int64_t sequence) {
  return [this, sequence](const std::string& tap, const float* input, int64_t tokens, int64_t columns, int64_t expert) {
    if (!settings_.taps || settings_.taps->contains(tap)) add(sequence, tap, input, tokens, columns, expert);
  };
}

void TapMeter::add(int64_t sequence, const std::string& tap, const float* input, int64_t tokens, int64_t columns, int64_t expert) {
  InputStatistics* found = find(tap, columns, expert);
  if (!found) return;
  const bool is_weighted = settings_.weights && expert < 0;
  const float* weight = is_weighted ? settings_.weights->at(tap).data() + sequence * settings_.length : nullptr;
  found->moment.add(input, tokens, products_, weight);
  measure_values(*found, input, sequence, tokens, columns, weight);
}

InputStatistics* TapMeter::find(const std::string& tap, int64_t columns, int64_t expert) {
  if (const auto found = statistics_.find({tap, expert}); found != statistics_.end()) return &found->second;
  auto moment = SecondMoment::create(columns, device());
  if (!moment) {
    status_ = tl::unexpected(moment.error());
    return nullptr;
  }
  const uint64_t seed = settings_.options.seed;
  InputStatistics made{std::move(*moment), ActivationError(sign_of(tap, columns, seed), columns), Magnitude(columns)};
  if (device() && settings_.options.method == Method::kTurboquant) {
    if (Status used = made.activation.use(*device()); !used) {
      status_ = std::move(used);
      return nullptr;
    }
  }
  return &statistics_.emplace(InputKey{tap, expert}, std::move(made)).first->second;
}

// What the methods ask of the values themselves.
void TapMeter::measure_values(InputStatistics& found, const float* input, int64_t sequence, int64_t tokens, int64_t columns,
                              const float* weight) {
  if (device() && sequence % kSampledSequences != 0) return;
  if (settings_.options.method == Method::kTurboquant) found.activation.add(input, tokens, settings_.threads, weight);
  if (settings_.options.method != Method::kAwq) return;
  if (device()) {
    copy_.resize(static_cast<size_t>(tokens * columns));
    settings_.backend.download(copy_.data(), input, copy_.size() * sizeof(float));
    input = copy_.data();
  }
  found.magnitude.add(input, tokens);
}

Status TapMeter::finish() {
  uint64_t bytes = 0;
  for (const auto& [key, each] : statistics_) bytes += each.moment.device_bytes();
  const bool has_room = device() && device()->quantizer()->free_bytes() >= kRoom * bytes;
  for (auto& [key, each] : statistics_) {
    each.activation.settle();
    if (!has_room || key.second >= 0) each.moment.settle();
  }
  return status_;
}

}  // namespace tq
