#include <gtest/gtest.h>

#include "base/rng.h"
#include "token/normalizer.h"
#include "token/utf8.h"

namespace tq {
namespace {

// "begin-end" of every byte.
std::string origins_of(const Rewriting& made) {
  std::string out;
  for (const auto& [begin, end] : made.origins()) out += fmt::format("{}{}-{}", out.empty() ? "" : " ", begin, end);
  return out;
}

Rewriting traced(std::vector<NormalizeStep> steps, std::string_view text) { return normalize_traced(steps, text); }

TEST(Rewriting, EveryByteSaysWhatItWasMadeOf) {
  const Rewriting spaces = traced({PrependText{"_"}, ReplaceText{" ", "__"}}, "a b");
  EXPECT_EQ(spaces.text, "_a__b");
  EXPECT_EQ(origins_of(spaces), "0-0 0-1 1-2 1-2 2-3");
  EXPECT_EQ(origins_of(traced({Lowercase{}}, "Aİ")), "0-1 1-3 1-3 1-3");
  EXPECT_EQ(origins_of(traced({StripSpace{true, true}, Lowercase{}}, " A ")), "1-2");
  EXPECT_EQ(origins_of(traced({SingleSpaces{}}, " a  b ")), "1-2 2-3 4-5");
  EXPECT_EQ(origins_of(traced({UnicodeForm{UnicodeForm::kNfkc}}, "é＜b")), "0-5 0-5 0-5 5-6");  // roughly
  EXPECT_EQ(origins_of(traced({UnicodeForm{UnicodeForm::kNfkc}}, "aéb")), "0-1 1-2 2-3 3-4");
}

TEST(Rewriting, ASCIIThatAFormLeavesAloneWasMadeOfItself) {
  EXPECT_EQ(origins_of(traced({UnicodeForm{UnicodeForm::kNfkc}}, "aé＜b")), "0-1 1-6 1-6 1-6 6-7");
  EXPECT_EQ(origins_of(traced({UnicodeForm{UnicodeForm::kNfkc}}, ">＜")), "0-1 1-4");
  EXPECT_EQ(origins_of(traced({UnicodeForm{UnicodeForm::kNfc}}, "e\u0301")), "0-3 0-3") << "it became another";
  EXPECT_EQ(origins_of(traced({UnicodeForm{UnicodeForm::kNfd}}, "aé")), "0-1 1-3 1-3 1-3");
}

TEST(Rewriting, WhatIsRewrittenTwiceKnowsTheFirstText) {
  Rewriting first(true), second(true);
  repair(
      "\xff"
      "ab",
      first);
  second.put("x", 3, 5);  // ab
  second.follow(first);
  second.shift(10);
  EXPECT_EQ(origins_of(second), "11-13");
  second.insert_front("__");
  EXPECT_EQ(origins_of(second), "11-11 11-11 11-13");
}

TEST(Rewriting, TracingChangesNoText) {
  const std::vector<std::string> units = {"a",      "<",      "é",  "e",  "\u0301", "\u0338", "\u0316", "ㅎ", "\u1112",
                                          "\u1161", "\u11ab", "한", "＜", "ﬁ",      " ",      "İ",      "中"};
  Rng random(3);
  for (int trial = 0; trial < 500; ++trial) {
    std::string text;
    for (int i = 0; i < 12; ++i) text += units[static_cast<size_t>(random.uniform() * static_cast<double>(units.size()))];
    for (const auto kind : {UnicodeForm::kNfc, UnicodeForm::kNfd, UnicodeForm::kNfkc, UnicodeForm::kNfkd}) {
      const std::vector<NormalizeStep> steps = {UnicodeForm{kind}, Lowercase{}, SingleSpaces{}};
      const Rewriting made = normalize_traced(steps, text);
      EXPECT_EQ(made.text, normalize(steps, text));
      EXPECT_EQ(made.origins().size(), made.text.size());
    }
  }
}

TEST(Rewriting, RepairIsThatOfUtf8) {
  const std::string text =
      "a\xe2\x96"
      "b\xff\xc3\xa9\xf0\x9f\x98";
  Rewriting made(true);
  repair(text, made);
  EXPECT_EQ(made.text, "a\ufffdb\ufffdé\ufffd");
  EXPECT_EQ(utf8_repair(text), made.text);
  EXPECT_EQ(origins_of(made), "0-1 1-3 1-3 1-3 3-4 4-5 4-5 4-5 5-6 6-7 7-10 7-10 7-10");
}

}  // namespace
}  // namespace tq
