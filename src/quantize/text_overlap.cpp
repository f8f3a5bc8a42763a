#include "quantize/text_overlap.h"

#include <algorithm>

#include "base/hash.h"

namespace tq {
namespace {

bool is_word(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x80 || (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

std::vector<uint64_t> word_hashes(std::string_view text) {
  std::vector<uint64_t> out;
  std::string word;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && is_word(text[i])) {
      word += text[i] >= 'A' && text[i] <= 'Z' ? static_cast<char>(text[i] - 'A' + 'a') : text[i];
    } else if (!word.empty()) {
      out.push_back(hash64(std::as_bytes(std::span(word))));
      word.clear();
    }
  }
  return out;
}

// Of every run of words, in order.
std::vector<uint64_t> run_hashes(std::string_view text) {
  const std::vector<uint64_t> words = word_hashes(text);
  std::vector<uint64_t> out;
  for (size_t i = 0; i + kOverlapWords <= words.size(); ++i)
    out.push_back(hash64(std::as_bytes(std::span(words).subspan(i, kOverlapWords))));
  return out;
}

}  // namespace

std::vector<TextOverlap> overlaps(std::string_view text, std::span<const CalibrationText> calibration) {
  const std::vector<uint64_t> runs = run_hashes(text);
  std::vector<TextOverlap> out;
  for (const CalibrationText& each : calibration) {
    std::vector<uint64_t> known = run_hashes(each.text);
    std::sort(known.begin(), known.end());
    const auto common =
        std::count_if(runs.begin(), runs.end(), [&](uint64_t run) { return std::binary_search(known.begin(), known.end(), run); });
    if (common > 0) out.push_back({each.name, static_cast<double>(common) / static_cast<double>(runs.size())});
  }
  return out;
}

}  // namespace tq
