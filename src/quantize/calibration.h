// The tokens that the model's inputs are measured on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "artifact/model.h"
#include "base/context.h"
#include "quantize/options.h"
#include "token/tokenizer.h"

namespace tq {

struct CalibrationText {
  std::string name;
  std::string text;
  int64_t weight = 1;  // texts of weight 1 that its share of the tokens is as large as
};

// How turboquant.json names the text that comes with the program, instead of files.
constexpr std::string_view kBuiltInCalibration = "built-in";

// The text that comes with the program, in seven kinds (data/calibration).
std::vector<CalibrationText> built_in_calibration();

// How many texts the options' calibration has (read_calibration).
size_t calibration_texts(const QuantizeOptions& options);

// `wanted` sequences shared out by the texts' weights, as far as each has so many available; what one lacks goes to the others.
std::vector<int64_t> share_out(std::span<const CalibrationText> texts, std::span<const int64_t> available, int64_t wanted);

// Sequences of `sequence` tokens, as many as the options ask for and the texts hold, from every text by its weight as far as each
// lasts, spread evenly over it. With a bos token, if the vocabulary adds one, at the front of each.
// text_of, if not null: the place in `texts` that each sequence comes from. Errors: kUsage for tokens that are less than one sequence,
// kBadInput when the texts hold less than one.
Result<std::vector<std::vector<TokenId>>> calibration_sequences(const Tokenizer& tokenizer, std::span<const CalibrationText> texts,
                                                                int64_t sequence, int64_t tokens, std::vector<int>* text_of = nullptr);

// How many tokens calibration_sequences gives for these options: what they ask for in whole sequences, as far as their texts hold it. Of
// a long text no more than needed is looked at. Errors: those of calibration_sequences and of reading; kBadInput for a model without a
// tokenizer.
Result<int64_t> tokens_at_hand(const Model& model, const QuantizeOptions& options);

// That text of other kinds than the one file's will lose more.
void warn_of_one_text(const QuantizeOptions& options, Listener& listener);

// The files of the options, or the built-in text. Errors: those of files; kBadInput for a pipe, since texts are read several times.
Result<std::vector<CalibrationText>> read_calibration(const QuantizeOptions& options);

}  // namespace tq
