#include "quantize/calibration.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "base/counted.h"
#include "base/mapped_file.h"

namespace tq {
namespace {

constexpr size_t kLargestText = size_t{256} << 20;

// What a sequence of a text begins with (a bos token, if texts begin with one), and the tokens of text behind it.
struct SequenceShape {
  std::vector<TokenId> beginning;
  int64_t body = 0;
};

Result<SequenceShape> sequence_shape(const Tokenizer& tokenizer, int64_t sequence) {
  SequenceShape shape{.beginning = tokenizer.encode("", false, true)};
  shape.body = sequence - static_cast<int64_t>(shape.beginning.size());
  if (shape.body > 0) return shape;
  return bad_input("sequences of {} tokens have no room for text; the model's context is too short to calibrate", sequence);
}

// Errors: kUsage for tokens that are less than one.
Result<int64_t> wanted_sequences(int64_t tokens, int64_t sequence) {
  if (tokens >= sequence) return tokens / sequence;
  return bad_usage("--calibration-tokens {}: less than one sequence of {}; give at least as many", tokens, sequence);
}

// longest: tokens of the longest text.
Unexpected too_short(std::span<const CalibrationText> texts, size_t longest, int64_t sequence) {
  return bad_input("{}: {}{}, less than one sequence of {}; give a longer text with --calibration",
                   texts.empty() ? "no calibration text" : texts[0].name, counted(longest, "token"),
                   texts.size() > 1 ? " in the longest text" : "", sequence);
}

// As many tokens as a text has; of a long one at least `enough`, by a part of it.
size_t tokens_in(const Tokenizer& tokenizer, std::string_view text, size_t enough) {
  constexpr size_t kBytes = 8;  // more than most tokens have
  for (size_t size = kBytes * std::min(enough, text.size());; size *= 2) {
    const size_t tokens = tokenizer.encode(text.substr(0, size), false, false).size();
    if (size >= text.size() || tokens >= enough) return tokens;
  }
}

// It is read several times. Errors: those of files; kBadInput for what gives its text only once.
Result<std::string> read_calibration_text(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_other(path, error)) return bad_input("{}: a pipe cannot be read twice; give a file", path);
  return read_text_file(path, kLargestText);
}

}  // namespace

std::vector<int64_t> share_out(std::span<const CalibrationText> texts, std::span<const int64_t> available, int64_t wanted) {
  std::vector<int64_t> taken(texts.size(), 0);
  bool is_left = true;
  for (int64_t round = 1; is_left && wanted > 0; ++round) {
    is_left = false;
    for (size_t i = 0; i < texts.size(); ++i) {
      const int64_t more = std::min(std::min(texts[i].weight * round, available[i]) - taken[i], wanted);
      taken[i] += more, wanted -= more, is_left |= taken[i] < available[i];
    }
  }
  return taken;
}

Result<std::vector<std::vector<TokenId>>> calibration_sequences(const Tokenizer& tokenizer, std::span<const CalibrationText> texts,
                                                                int64_t sequence, int64_t tokens, std::vector<int>* text_of) {
  TQ_ASSIGN(const int64_t wanted, wanted_sequences(tokens, sequence));
  TQ_ASSIGN(const SequenceShape shape, sequence_shape(tokenizer, sequence));
  std::vector<std::vector<TokenId>> ids;
  std::vector<int64_t> available;
  size_t longest = 0;
  for (const CalibrationText& text : texts) {
    ids.push_back(tokenizer.encode(text.text, false, false));
    available.push_back(static_cast<int64_t>(ids.back().size()) / shape.body);
    longest = std::max(longest, ids.back().size());
  }
  const std::vector<int64_t> taken = share_out(texts, available, wanted);
  std::vector<std::vector<TokenId>> out;
  for (size_t i = 0; i < ids.size(); ++i) {
    for (int64_t n = 0; n < taken[i]; ++n) {
      std::vector<TokenId> one = shape.beginning;
      const int64_t begin = n * available[i] / taken[i] * shape.body;
      one.insert(one.end(), ids[i].begin() + begin, ids[i].begin() + begin + shape.body);
      out.push_back(std::move(one));
      if (text_of) text_of->push_back(static_cast<int>(i));
    }
  }
  if (out.empty()) return too_short(texts, longest, sequence);
  return out;
}

Result<int64_t> tokens_at_hand(const Model& model, const QuantizeOptions& options) {
  if (!model.tokenizer) return bad_input("{}: it has no tokenizer, so that no text can be run through it", model.source);
  TQ_ASSIGN(const std::vector<CalibrationText> texts, read_calibration(options));
  const int64_t sequence = std::min(options.sequence, model.spec.context);
  TQ_ASSIGN(const int64_t wanted, wanted_sequences(calibration_tokens(options), sequence));
  TQ_ASSIGN(const SequenceShape shape, sequence_shape(*model.tokenizer, sequence));
  std::vector<int64_t> available;
  size_t longest = 0;
  for (const CalibrationText& text : texts) {
    const size_t tokens = tokens_in(*model.tokenizer, text.text, static_cast<size_t>((wanted + 1) * shape.body));
    available.push_back(static_cast<int64_t>(tokens) / shape.body);
    longest = std::max(longest, tokens);
  }
  const std::vector<int64_t> taken = share_out(texts, available, wanted);
  const int64_t sequences = std::accumulate(taken.begin(), taken.end(), int64_t{0});
  if (sequences == 0) return too_short(texts, longest, sequence);
  return sequences * sequence;
}

void warn_of_one_text(const QuantizeOptions& options, Listener& listener) {
  if (options.calibration.size() == 1)
    listener.warn(
        fmt::format("{} is all of the calibration text: text of other kinds than it will lose more; --calibration takes several files",
                    options.calibration[0]));
}

Result<std::vector<CalibrationText>> read_calibration(const QuantizeOptions& options) {
  if (options.calibration.empty()) return built_in_calibration();
  std::vector<CalibrationText> texts;
  for (const std::string& path : options.calibration) {
    TQ_ASSIGN(std::string text, read_calibration_text(path));
    texts.push_back({path, std::move(text)});
  }
  return texts;
}

}  // namespace tq
