#include "quantize/options.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "codec/grid/taps.h"

namespace tq {
namespace {

constexpr std::array<std::string_view, 3> kNames = {"fast", "normal", "best"};
constexpr std::array<std::string_view, 5> kMethods = {"turboquant", "rtn", "gptq", "awq", "quip"};

// [effort][K]. At high rates a longer window gains less than a tenth of a decibel, at one bit nothing.
constexpr int kWindows[3][grid::kMaxRate + 1] = {
    {0, 1, 10, 9, 10, 8, 8, 9, 9},
    {0, 1, 12, 12, 12, 12, 10, 10, 10},
    {0, 1, 14, 15, 16, 15, 12, 12, 12},
};

}  // namespace

std::optional<Effort> effort_from_name(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return static_cast<Effort>(i);
  return std::nullopt;
}

std::optional<Method> method_from_name(std::string_view name) {
  for (size_t i = 0; i < kMethods.size(); ++i)
    if (kMethods[i] == name) return static_cast<Method>(i);
  return std::nullopt;
}

std::string_view method_name(Method method) { return kMethods[static_cast<size_t>(method)]; }

double highest_bits(Method method) { return method == Method::kQuip ? 4 : 8; }

bool has_whole_bits(Method method) { return method != Method::kTurboquant; }

std::string_view effort_name(Effort effort) { return kNames[static_cast<size_t>(effort)]; }

int64_t calibration_tokens(const QuantizeOptions& options) {
  constexpr int64_t kRounding[3] = {16 << 10, 48 << 10, 128 << 10};
  constexpr int64_t kBlocks[3] = {16 << 10, 96 << 10, 512 << 10};  // least squares gain more by tokens than rounding does
  if (options.calibration_tokens > 0) return options.calibration_tokens;
  return (uses_calibration(options) ? kBlocks : kRounding)[static_cast<size_t>(options.effort)];
}

double damping_of(const QuantizeOptions& options) {
  if (options.damping) return *options.damping;
  if (options.method != Method::kTurboquant) return 0.01;
  constexpr double kAtThreeBits = 0.1, kTokens = 48 << 10;
  const double tokens = static_cast<double>(calibration_tokens(options));
  return std::clamp(kAtThreeBits * std::exp2(3.0 - options.bits) * std::sqrt(kTokens / tokens), 0.01, 0.5);
}

bool uses_act_order(const QuantizeOptions& options) { return options.act_order.value_or(options.method == Method::kGptq); }

bool uses_gradients(const QuantizeOptions& options) { return options.gradients.value_or(false); }

bool uses_allocation(const QuantizeOptions& options) { return options.method == Method::kTurboquant && options.allocate.value_or(false); }

bool uses_calibration(const QuantizeOptions& options) { return options.calibrate.value_or(false); }
bool uses_tuning(const QuantizeOptions& options) { return options.tune.value_or(false); }

bool rounds_in_sequence(const QuantizeOptions& options) { return uses_calibration(options) || options.method == Method::kGptq; }

int window_of(int rate, Effort effort) { return kWindows[static_cast<size_t>(effort)][rate]; }

grid::TapsByRate taps_of(Effort effort) {
  grid::TapsByRate taps;
  for (int rate = grid::kMinRate; rate <= grid::kMaxRate; ++rate) {
    taps[static_cast<size_t>(rate)] = grid::default_taps(rate, window_of(rate, effort));
    TQ_CHECK(!taps[static_cast<size_t>(rate)].empty());
  }
  return taps;
}

grid::TapsByRate taps_of(const QuantizeOptions& options) { return taps_of(options.rounding.value_or(options.effort)); }

}  // namespace tq
