// What the tuning of a whole model learns from, and what it is judged by.
#pragma once

#include "quantize/calibration.h"

namespace tq {

struct TuningText {
  std::vector<std::vector<TokenId>> sequences;  // all of equal length, one text after another
  std::vector<std::vector<TokenId>> held_out;   // of the same length, not among them
  std::vector<size_t> domain;                   // of each of held_out: a place in domains
  std::vector<std::string> domains;             // names of the texts that have held-out sequences
};

constexpr int64_t kHeldOutOfText = 4;  // sequences

struct TuningTextRequest {
  std::span<const CalibrationText> texts;
  std::span<const std::vector<TokenId>> calibration;  // what the rounding was measured on
  int64_t length = 512;                               // tokens of a sequence
  int64_t count = 0;                                  // sequences wanted; fewer if the texts have no more
  int64_t held_out = kHeldOutOfText;                  // of each text, at most a quarter of it; a text of one sequence has none
};
// Held-out sequences are such that no calibration sequence shares a token with, as far as a text has any. With a bos token at the front of
// each, if the vocabulary adds one.
TuningText tuning_text(const Tokenizer& tokenizer, const TuningTextRequest& request);

// Numbers below `count` at the places [first, last) of an endless draw without repetition until all have been used.
std::vector<size_t> drawn_sequences(size_t count, int64_t first, int64_t last, uint64_t seed);

}  // namespace tq
