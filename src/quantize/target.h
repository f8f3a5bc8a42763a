// What an artifact shall be exported to later, and what that asks of the rates.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "quantize/rates.h"

namespace tq {

//   gguf    llama.cpp: a type for each tensor, so one rate for each linear and stack of experts
//   vllm    one for what vLLM fuses: query, key and value; gate and up; all experts of a layer
//   sglang  the same
enum class Target : uint8_t { kNone, kGguf, kVllm, kSglang };
std::optional<Target> target_from_name(std::string_view name);
std::string_view target_name(Target target);  // "" of kNone

// The linears that must share a rate, by their places; each is in one group. Of kNone and kGguf every one alone.
std::vector<std::vector<size_t>> ties(std::span<const Linear* const> linears, Target target);

// As uniform_rates, but with one whole rate for every group of ties.
std::vector<Rates> tied_rates(std::span<const Linear* const> linears, double bits, Target target);

}  // namespace tq
