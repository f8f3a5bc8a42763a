#include "quantize/tuning_text.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "base/rng.h"
#include "quantize/letters.h"

namespace tq {
namespace {

std::string random_text(size_t length, uint64_t seed) {
  std::string out;
  Rng rng(seed);
  while (out.size() < length) out += static_cast<char>('a' + rng.bits() % 26);
  return out;
}

constexpr int64_t kLength = 17;  // a bos and 16 letters

struct Texts {
  Tokenizer tokenizer = letters();
  std::vector<CalibrationText> texts = {{"first", random_text(1600, 1)}, {"second", random_text(800, 2)}, {"tiny", random_text(20, 3)}};

  TuningText make(int64_t count, std::span<const std::vector<TokenId>> calibration = {}) const {
    return tuning_text(tokenizer, {.texts = texts, .calibration = calibration, .length = kLength, .count = count, .held_out = 3});
  }
};

TEST(TuningText, HeldOutSequencesAreOfEveryTextThatCanSpareThem) {
  const TuningText text = Texts().make(40);
  EXPECT_THAT(text.domains, testing::ElementsAre("first", "second"));
  EXPECT_THAT(text.domain, testing::ElementsAre(0, 0, 0, 1, 1, 1));
  EXPECT_EQ(text.held_out.size(), 6u);
  EXPECT_EQ(text.sequences.size(), 40u);
  for (const auto& sequence : text.sequences) {
    EXPECT_EQ(sequence.size(), static_cast<size_t>(kLength));
    EXPECT_EQ(sequence[0], 26);
    EXPECT_EQ(std::count(text.sequences.begin(), text.sequences.end(), sequence), 1);
    EXPECT_EQ(std::count(text.held_out.begin(), text.held_out.end(), sequence), 0);
  }
}

TEST(TuningText, AskedForMoreThanThereIsItGivesEverythingElse) {
  const TuningText text = Texts().make(1000);
  EXPECT_EQ(text.sequences.size(), 100u + 50u + 1u - 6u);
}

TEST(TuningText, CalibrationHasNotSeenTheHeldOutSequences) {
  const Texts texts;
  const auto calibration = calibration_sequences(texts.tokenizer, texts.texts, 2 * kLength - 1, 40 * kLength);
  ASSERT_TRUE(calibration.has_value());
  const TuningText text = texts.make(40, *calibration);
  EXPECT_EQ(text.held_out.size(), 6u);
  for (const auto& held_out : text.held_out)
    for (const auto& sequence : *calibration)
      EXPECT_EQ(std::search(sequence.begin(), sequence.end(), held_out.begin() + 1, held_out.end()), sequence.end());
}

}  // namespace
}  // namespace tq
