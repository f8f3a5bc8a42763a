// Tokenizers of models that have fewer rows than the vocabulary has tokens.
#include <gmock/gmock.h>

#include "token/tokenizer.h"

namespace tq {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Lt;

Tokenizer small() {
  VocabularySpec spec;
  spec.pre = "gpt-2";
  for (int byte = 33; byte < 127; ++byte) spec.tokens.emplace_back(1, static_cast<char>(byte));
  spec.kinds.resize(spec.tokens.size(), TokenKind::kNormal);
  spec.tokens.insert(spec.tokens.end(), {"<image>", "<call>"});  // 94, 95
  spec.kinds.insert(spec.kinds.end(), {TokenKind::kControl, TokenKind::kUserDefined});
  auto made = Tokenizer::from_vocabulary(std::move(spec), "small");
  EXPECT_TRUE(made.has_value());
  return *made;
}

TEST(TokenizerForRows, AddedTokensBeyondAreOrdinaryText) {
  const Tokenizer whole = small();
  EXPECT_THAT(whole.encode("a<image><call>", true, false), ElementsAre('a' - 33, 94, 95));
  const auto fitted = whole.for_rows(95);
  ASSERT_TRUE(fitted.has_value()) << fitted.error().message;
  EXPECT_EQ(fitted->encode("a<image>", true, false).back(), 94);
  EXPECT_THAT(fitted->encode("a<image><call>", true, false), Each(Lt(95)));
  const auto none = whole.for_rows(94);
  ASSERT_TRUE(none.has_value());
  EXPECT_THAT(none->encode("a<image><call>", true, false), Each(Lt(94)));
  EXPECT_EQ(none->decode(none->encode("a<image><call>", true, false), true), "a<image><call>");
}

TEST(TokenizerForRows, WordsBeyondAreRefusedByName) {
  const auto fitted = small().for_rows(90);
  ASSERT_FALSE(fitted.has_value());
  EXPECT_EQ(fitted.error().code, ErrorCode::kBadInput);
  EXPECT_THAT(fitted.error().message, HasSubstr("token 90 ('{')"));
}

// Ids between the vocabulary and the added tokens are nobody's: not the unknown token's, nor bos or eos where none is named.
TEST(TokenizerForRows, IdsWithoutATokenHaveNoPart) {
  const Json json = {{"added_tokens", {{{"id", 9}, {"content", "<x>"}, {"special", true}}}},
                     {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}}}, {"merges", Json::array()}}}};
  const auto whole = Tokenizer::from_json(json, Json::object(), "gap");
  ASSERT_TRUE(whole.has_value()) << whole.error().message;
  EXPECT_EQ(whole->bos(), -1);
  EXPECT_EQ(whole->eos(), -1);
  EXPECT_THAT(whole->encode("acb<x>", true, true), ElementsAre(0, 1, 9));
  const auto fitted = whole->for_rows(2);
  ASSERT_TRUE(fitted.has_value()) << fitted.error().message;
  EXPECT_THAT(fitted->encode("ab<x>", true, true), ElementsAre(0, 1));
}

}  // namespace
}  // namespace tq
