#include "quantize/calibration.h"

#include <algorithm>

#include "base/mapped_file.h"

namespace tq {
namespace {

constexpr size_t kLargestText = size_t{256} << 20;

}  // namespace

std::vector<int64_t> share_out(std::span<const CalibrationText> texts, std::span<const int64_t> available, int64_t wanted) {
  std::vector<int64_t> taken(texts.size(), 0);
  for (bool any = true; any && wanted > 0;) {
    any = false;
    for (size_t i = 0; i < texts.size(); ++i) {
      const int64_t more = std::min({texts[i].weight, available[i] - taken[i], wanted});
      taken[i] += more, wanted -= more, any |= more > 0;
    }
  }
  return taken;
}

Result<std::vector<std::vector<TokenId>>> calibration_sequences(const Tokenizer& tokenizer, std::span<const CalibrationText> texts,
                                                                int64_t sequence, int64_t tokens, std::vector<int>* text_of) {
  const std::vector<TokenId> empty = tokenizer.encode("", false, true);  // a bos token, if texts begin with one
  const auto body = sequence - static_cast<int64_t>(empty.size());
  if (body <= 0) return bad_input("sequences of {} tokens have no room for text; the model's context is too short to calibrate", sequence);
  std::vector<std::vector<TokenId>> ids;
  std::vector<int64_t> available;
  for (const CalibrationText& text : texts) {
    ids.push_back(tokenizer.encode(text.text, false, false));
    available.push_back(static_cast<int64_t>(ids.back().size()) / body);
  }
  const std::vector<int64_t> taken = share_out(texts, available, std::max<int64_t>(1, tokens / sequence));
  std::vector<std::vector<TokenId>> out;
  for (size_t i = 0; i < ids.size(); ++i) {
    for (int64_t n = 0; n < taken[i]; ++n) {
      std::vector<TokenId> one = empty;
      const int64_t begin = n * available[i] / taken[i] * body;
      one.insert(one.end(), ids[i].begin() + begin, ids[i].begin() + begin + body);
      out.push_back(std::move(one));
      if (text_of) text_of->push_back(static_cast<int>(i));
    }
  }
  if (out.empty()) {
    size_t longest = 0;
    for (const auto& each : ids) longest = std::max(longest, each.size());
    return bad_input("{}: {} tokens{}, less than one sequence of {}; give a longer text with --calibration",
                     texts.empty() ? "no calibration text" : texts[0].name, longest, texts.size() > 1 ? " in the longest text" : "",
                     sequence);
  }
  return out;
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
    TQ_TRY(MappedFile::open(path));  // a pipe could not be read again
    TQ_ASSIGN(std::string text, read_text_file(path, kLargestText));
    texts.push_back({path, std::move(text)});
  }
  return texts;
}

}  // namespace tq
