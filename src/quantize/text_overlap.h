// Whether text that a model is judged by was used to make it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quantize/calibration.h"

namespace tq {

// Runs of this many words are taken for the same text (Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C).
constexpr int kOverlapWords = 13;

struct TextOverlap {
  std::string calibration;  // name of the calibration text
  double share = 0;         // of the judged text's runs of 13 words that stand in it, above 0
};

// Words are letters, digits and bytes beyond ASCII; case does not count. In the order of the calibration texts; those without a common run
// are left out.
std::vector<TextOverlap> overlaps(std::string_view text, std::span<const CalibrationText> calibration);

}  // namespace tq
