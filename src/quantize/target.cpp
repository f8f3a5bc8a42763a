#include "quantize/target.h"

#include <array>
#include <cmath>
#include <map>

namespace tq {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"", "gguf", "vllm", "sglang"};

bool is_fusing(Target target) { return target == Target::kVllm || target == Target::kSglang; }

std::string tie_of(const Linear& linear) {
  constexpr std::string_view kExperts = ".experts.";
  if (linear.experts > 0) return linear.name.substr(0, linear.name.find(kExperts));
  return linear.tie_group.empty() ? linear.name : linear.tie_group;
}

}  // namespace

std::optional<Target> target_from_name(std::string_view name) {
  for (size_t i = 1; i < kNames.size(); ++i)
    if (kNames[i] == name) return static_cast<Target>(i);
  return std::nullopt;
}

std::string_view target_name(Target target) { return kNames[static_cast<size_t>(target)]; }

std::vector<std::vector<size_t>> ties(std::span<const Linear* const> linears, Target target) {
  std::vector<std::vector<size_t>> out;
  std::map<std::string, size_t> group;
  for (size_t i = 0; i < linears.size(); ++i) {
    const auto [found, is_new] = group.try_emplace(is_fusing(target) ? tie_of(*linears[i]) : linears[i]->name, out.size());
    if (is_new) out.emplace_back();
    out[found->second].push_back(i);
  }
  return out;
}

std::vector<Rates> tied_rates(std::span<const Linear* const> linears, double bits, Target target) {
  const int low = static_cast<int>(std::floor(bits));
  std::vector<Rates> out(linears.size());
  double left = 0;  // bits that earlier groups have not used
  for (const std::vector<size_t>& group : ties(linears, target)) {
    double own = 0;
    for (const size_t i : group) own += weights_of(*linears[i]);
    left += (bits - low) * own;
    const bool is_higher = bits > low && own <= left * (1 + 1e-12);
    if (is_higher) left -= own;
    for (const size_t i : group) out[i] = constant_rates(*linears[i], low + is_higher);
  }
  return out;
}

}  // namespace tq
