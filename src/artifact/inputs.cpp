#include "artifact/inputs.h"

#include <cstdlib>

#include <fmt/format.h>

namespace tq {

std::string InputFacts::text() const { return fmt::format("{}{:>8}", under, dead); }

std::string InputFacts::described() const {
  if (under == 'i') return "no tokens, or zeros alone: errors of weights count alike";
  std::string text = under == 'r' ? "all tokens have one direction: errors of weights count alike" : "";
  if (dead > 0)
    text += fmt::format("{}{} always zero", text.empty() ? "" : "; ", dead == 1 ? "1 input is" : fmt::format("{} inputs are", dead));
  return text;
}

InputFacts input_facts(const std::string& text) {
  return {text.empty() ? 'o' : text[0], text.empty() ? 0 : std::strtoll(text.c_str() + 1, nullptr, 10)};
}

std::string described_experts(const std::string& letters) {
  std::string numbers;
  size_t few = 0;
  for (size_t e = 0; e < letters.size(); ++e) {
    if (letters[e] == 'o') continue;
    numbers += fmt::format("{}{}", numbers.empty() ? "" : ", ", e);
    ++few;
  }
  if (few == 0) return {};
  return fmt::format("{} of {} experts had too few tokens of their own, or none: {}", few, letters.size(), numbers);
}

}  // namespace tq
