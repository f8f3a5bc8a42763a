// Control tokens that tokenizer.json marks as normalized: they are looked for after the text was rewritten.
#include <algorithm>
#include <tuple>

#include <gmock/gmock.h>

#include "token/added_tokens.h"
#include "token/tokenizer.h"

namespace tq {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

constexpr TokenId kEnd = 6;

Tokenizer tokenizer_with(const Json& normalizer) {
  const Json json = {
      {"normalizer", normalizer},
      {"added_tokens",
       {{{"id", kEnd}, {"content", "</s>"}, {"special", true}, {"normalized", true}},
        {{"id", 7}, {"content", "<tool>"}, {"special", false}, {"normalized", false}},
        {{"id", 8}, {"content", "abab"}, {"special", false}, {"normalized", true}}}},
      {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"<", 2}, {"/", 3}, {"s", 4}, {">", 5}}}, {"merges", Json::array()}}}};
  auto out = Tokenizer::from_json(json, Json::object(), "test");
  EXPECT_TRUE(out.has_value()) << out.error().message;
  return *out;
}

Json sequence(Json steps) { return {{"type", "Sequence"}, {"normalizers", std::move(steps)}}; }
const Json kLowercase = {{"type", "Lowercase"}};
const Json kSpacesMarked =
    sequence({{{"type", "Prepend"}, {"prepend", "▁"}}, {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}});

TEST(NormalizedControlTokens, AreOrdinaryTextUnlessTheyAreParsed) {
  const Tokenizer tokenizer = tokenizer_with(kLowercase);
  EXPECT_THAT(tokenizer.encode("A</S>b", true, false), ElementsAre(0, kEnd, 1));
  EXPECT_THAT(tokenizer.encode("A</S>b", false, false), ElementsAre(0, 2, 3, 4, 5, 1));
  EXPECT_THAT(tokenizer.encode("abABb", false, false), ElementsAre(8, 1)) << "others always match";
}

TEST(NormalizedControlTokens, AreOrdinaryTextWithABreakInside) {
  const std::vector<size_t> breaks = {2, 10};
  EXPECT_THAT(tokenizer_with(nullptr).encode_broken("a</s>b</s>", breaks), ElementsAre(0, 2, 3, 4, 5, 1, kEnd))
      << "a break at the end of a token is not inside";
  const Tokenizer lower = tokenizer_with(kLowercase);
  EXPECT_THAT(lower.encode_broken("A</S></S><tool></S>", std::vector<size_t>{2, 16}), ElementsAre(0, 2, 3, 4, 5, kEnd, 7, 2, 3, 4, 5));
  // Offsets count in the text as it was given: \xff becomes three bytes.
  EXPECT_THAT(lower.encode_broken("\xff\xff</S></S>", std::vector<size_t>{3}), ElementsAre(2, 3, 4, 5, kEnd));
  // İ becomes three bytes of two.
  EXPECT_THAT(lower.encode_broken("İİİİ</S></S>", std::vector<size_t>{9}), ElementsAre(2, 3, 4, 5, kEnd));
}

TEST(NormalizedControlTokens, AreFoundWhereverATextCouldBeReadAsOne) {
  const Json accents_gone = sequence({{{"type", "NFD"}}, {{"type", "StripAccents"}}});
  const std::tuple<Json, const char*, int64_t> cases[] = {{nullptr, "</s>", 1},
                                                          {nullptr, "a</s></s>", 2},
                                                          {kLowercase, "a</S>İ</s>", 2},
                                                          {{{"type", "NFKC"}}, "a＜/s＞b</ｓ>", 2},
                                                          {accents_gone, "a<\u0301/\u0301s>", 1},
                                                          {kSpacesMarked, "</s>", 1},
                                                          {kSpacesMarked, "a </s>", 1},
                                                          {kSpacesMarked, "a<tool></s>", 1}};
  for (const auto& [normalizer, text, count] : cases) {
    SCOPED_TRACE(normalizer.dump() + text);
    const Tokenizer tokenizer = tokenizer_with(normalizer);
    const std::vector<TokenId> read = tokenizer.encode(text, true, false);
    EXPECT_EQ(std::count(read.begin(), read.end(), kEnd), count);
    std::vector<size_t> breaks = tokenizer.find_special(text);
    EXPECT_GE(static_cast<int64_t>(breaks.size()), count);
    for (size_t& at : breaks) ++at;
    EXPECT_THAT(tokenizer.encode_broken(text, breaks), Not(Contains(kEnd)));
  }
  EXPECT_TRUE(tokenizer_with(kLowercase).find_special("< /s><tool>abab").empty());
}

// What stands before them in a message need not stand before them in the prompt.
TEST(NormalizedControlTokens, AreFoundWhateverSpaceStandsBeforeThem) {
  const Tokenizer tokenizer = tokenizer_with(kSpacesMarked);
  EXPECT_THAT(tokenizer.find_special("</s>"), ElementsAre(0));
  EXPECT_THAT(tokenizer.find_special("\n</s>"), ElementsAre(1));
  EXPECT_THAT(tokenizer.find_special(" </s>a</s>▁</s>"), ElementsAre(1, 6, 13));
  for (const char* text : {"</s>", " </s>", "a </s>", "<tool></s>"}) {
    const size_t behind_first = std::string_view(text).find("</s>") + 1;
    EXPECT_THAT(tokenizer.encode(text, true, false), Contains(kEnd)) << text;
    EXPECT_THAT(tokenizer.encode_broken(text, std::vector<size_t>{behind_first}), Not(Contains(kEnd))) << text;
  }
}

TEST(AddedTokens, SpecialOnesAreFoundByWhatTheyAreWithoutSpaces) {
  AddedTokens tokens;
  tokens.add({.content = " \n<a>▁", .id = 0, .special = true});
  tokens.add({.content = "▁|", .id = 1, .special = true});  // one byte has no place inside
  tokens.add({.content = " ", .id = 2, .special = true});
  tokens.add({.content = "<b>", .id = 3});
  tokens.index();
  EXPECT_TRUE(tokens.finds_special());
  EXPECT_THAT(tokens.find_special("<a><b> |▁|<a"), ElementsAre(0, 6, 8));
  EXPECT_TRUE(tokens.find("<a>|", {.parse_special = true}).empty()) << "alone they are ordinary text all the same";
}

}  // namespace
}  // namespace tq
