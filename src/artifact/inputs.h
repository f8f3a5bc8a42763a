// What an artifact's turboquant.json says of the inputs that its linears were rounded under, and in words.
#pragma once

#include <cstdint>
#include <string>

namespace tq {

struct InputFacts {
  // 'o': the second moment of its tokens; 'r': the identity, since all tokens have one direction; 'i': the identity, since there are no
  // tokens or all of them are zero.
  char under = 'o';
  int64_t dead = 0;  // inputs that are always zero: errors of their weights count by the damping alone

  // Nine characters, whatever they say.
  std::string text() const;
  bool is_usual() const { return under == 'o' && dead == 0; }
  // What is unusual about it; empty: nothing.
  std::string described() const;
};
InputFacts input_facts(const std::string& text);

// Of a mixture, a letter an expert: what it was rounded under. 'o': the second moment of its own tokens; 's': of all experts' tokens, since
// it has fewer than a quarter of its columns; 'i': the identity, since there are none at all. In words, those that are not 'o'; empty:
// none.
std::string described_experts(const std::string& letters);

}  // namespace tq
