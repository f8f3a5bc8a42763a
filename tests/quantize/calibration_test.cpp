#include "quantize/calibration.h"

#include <sys/stat.h>
#include <unistd.h>

#include <gmock/gmock.h>

#include "base/output_file.h"
#include "quantize/letters.h"

namespace tq {
namespace {

using testing::ElementsAre;

TEST(Calibration, TextsShareSequencesByTheirWeights) {
  const std::vector<CalibrationText> texts = {{"prose", "", 1}, {"code", "", 3}, {"speech", "", 1}};
  EXPECT_THAT(share_out(texts, std::vector<int64_t>{100, 100, 100}, 50), ElementsAre(10, 30, 10));
  EXPECT_THAT(share_out(texts, std::vector<int64_t>{100, 100, 100}, 7), ElementsAre(2, 4, 1));
}

// docs/method.md, "Code's share of the calibration".
TEST(Calibration, OfTheProgramsOwnTextsCodeHasThreeShares) {
  const std::vector<CalibrationText> texts = built_in_calibration();
  const std::vector<int64_t> shares = share_out(texts, std::vector<int64_t>(texts.size(), 100), 90);
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(shares[i], texts[i].name == "code" ? 30 : 10) << texts[i].name;
}

TEST(Calibration, WhatATextLacksGoesToTheOthers) {
  const std::vector<CalibrationText> texts = {{"prose", "", 1}, {"code", "", 3}, {"speech", "", 1}};
  EXPECT_THAT(share_out(texts, std::vector<int64_t>{100, 5, 100}, 45), ElementsAre(20, 5, 20));
  EXPECT_THAT(share_out(texts, std::vector<int64_t>{2, 5, 0}, 45), ElementsAre(2, 5, 0));
}

// A model of a token a letter, with bos; texts in files.
class TokensAtHand : public testing::Test {
 protected:
  TokensAtHand() {
    model_.tokenizer = std::make_shared<Tokenizer>(letters());
    model_.spec.context = 17;  // a bos and 16 letters
  }
  std::string text(const std::string& name, size_t length) {
    const std::string path = testing::TempDir() + "/tokens-at-hand-" + name;
    std::string letters;
    for (size_t i = 0; i < length; ++i) letters += static_cast<char>('a' + (i * i + i / 7) % 26);
    TQ_CHECK(write_file(path, letters).has_value());
    return path;
  }
  // By counting, and by cutting the sequences.
  std::pair<int64_t, int64_t> counted(const QuantizeOptions& options) {
    const auto texts = read_calibration(options);
    const auto cut = calibration_sequences(*model_.tokenizer, *texts, 17, calibration_tokens(options));
    return {tokens_at_hand(model_, options).value_or(-1), cut ? static_cast<int64_t>(cut->size()) * 17 : -1};
  }
  Model model_;
};

TEST_F(TokensAtHand, AreThoseOfTheSequences) {
  QuantizeOptions options;
  options.calibration = {text("long", 100'000), text("short", 16 * 5 + 3), text("tiny", 15)};
  for (const auto& [asked, got] :
       {std::pair<int64_t, int64_t>{17, 17}, {17 * 10 + 16, 17 * 10}, {17 * 100, 17 * 100}, {1 << 30, 17 * 6255}}) {
    options.calibration_tokens = asked;
    EXPECT_THAT(counted(options), testing::Pair(got, got)) << asked;
  }
  options.calibration = {options.calibration[1]};
  EXPECT_THAT(counted(options), testing::Pair(17 * 5, 17 * 5));
}

TEST_F(TokensAtHand, OfLessThanASequenceAreRefusedByTheFlag) {
  QuantizeOptions options;
  options.calibration = {text("enough", 100)}, options.calibration_tokens = 16;
  const auto refused = tokens_at_hand(model_, options);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
  EXPECT_EQ(refused.error().message, "--calibration-tokens 16: less than one sequence of 17; give at least as many");
  EXPECT_EQ(calibration_sequences(*model_.tokenizer, *read_calibration(options), 17, 16).error().code, ErrorCode::kUsage);
}

TEST_F(TokensAtHand, OfAPipeAreRefusedBeforeItIsRead) {
  const std::string pipe = testing::TempDir() + "/tokens-at-hand-pipe";
  ::unlink(pipe.c_str());
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  QuantizeOptions options;
  options.calibration = {pipe};
  const auto refused = tokens_at_hand(model_, options);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(refused.error().message, pipe + ": a pipe cannot be read twice; give a file");
  ::unlink(pipe.c_str());
}

TEST_F(TokensAtHand, NeedATokenizerAndATextOfASequence) {
  QuantizeOptions options;
  options.calibration = {text("less", 15)};
  EXPECT_THAT(tokens_at_hand(model_, options).error().message, testing::HasSubstr("15 tokens, less than one sequence of 17"));
  options.calibration = {"nowhere.txt"};
  EXPECT_THAT(tokens_at_hand(model_, options).error().message, testing::HasSubstr("nowhere.txt"));
  model_.tokenizer = nullptr, model_.source = "mute";
  EXPECT_THAT(tokens_at_hand(model_, options).error().message, testing::HasSubstr("mute: it has no tokenizer"));
}

}  // namespace
}  // namespace tq
