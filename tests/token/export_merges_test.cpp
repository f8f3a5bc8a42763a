#include <set>

#include <gtest/gtest.h>

#include "token/tokenizer.h"

namespace tq {
namespace {

// Gemma's vocabulary has tokens of real spaces beside those of ▁; `tokenizers` refuses a merge of what is no token.
TEST(ExportedMerges, JoinTokensOfTheVocabulary) {
  VocabularySpec spec;
  spec.model = VocabularySpec::Model::kSpm;
  spec.tokens = {"<unk>", "<s>", "</s>", " ", "  ", "   ", "▁", "a", "▁a", "b", "ab"};
  spec.scores = {0, 0, 0, -1, -2, -3, -4, -5, -6, -7, -8};
  spec.kinds.assign(spec.tokens.size(), TokenKind::kNormal);
  spec.kinds[0] = TokenKind::kUnknown, spec.kinds[1] = spec.kinds[2] = TokenKind::kControl;
  spec.kinds[4] = spec.kinds[5] = TokenKind::kUserDefined;
  spec.unknown = 0, spec.bos = 1, spec.eos = 2;
  const auto tokenizer = Tokenizer::from_vocabulary(spec, "v");
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  const Json model = tokenizer->to_tokenizer_json()["model"];
  ASSERT_EQ(model["merges"].size(), 2u);  // ▁ a, a b
  for (const Json& merge : model["merges"])
    for (const Json& part : merge) EXPECT_TRUE(model["vocab"].contains(part.get<std::string>())) << part;
}

// Files of padded vocabularies have such tokens; llama.cpp calls them [EMPTY_n].
TEST(ExportedVocabulary, TokensWithoutTextKeepTheirIdsAndPrintNothing) {
  VocabularySpec bytes;
  bytes.pre = "gpt-2";
  bytes.tokens = {"a", "", "b", "ab", "", "<end>"};
  bytes.kinds.assign(bytes.tokens.size(), TokenKind::kNormal);
  bytes.kinds[1] = TokenKind::kUnused, bytes.kinds[5] = TokenKind::kControl;
  bytes.merges = {"a b"};
  bytes.unknown = 4, bytes.eos = 5;
  VocabularySpec pieces = bytes;
  pieces.model = VocabularySpec::Model::kSpm;
  pieces.scores = {-1, 0, -2, -3, 0, 0};
  for (const VocabularySpec& spec : {bytes, pieces}) {
    const auto tokenizer = Tokenizer::from_vocabulary(spec, "v");
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    const auto again = Tokenizer::from_json(tokenizer->to_tokenizer_json(), tokenizer->to_tokenizer_config(), "exported");
    ASSERT_TRUE(again.has_value()) << again.error().message;
    for (const Tokenizer& one : {*tokenizer, *again}) {
      EXPECT_EQ(one.size(), 6);
      EXPECT_EQ(one.eos(), 5);
      EXPECT_EQ(one.encode("aab<end>b", true, false), (std::vector<TokenId>{0, 3, 5, 2}));
      EXPECT_EQ(one.decode(std::vector<TokenId>{1, 0, 4, 3}, false), "aab");
    }
  }
}

TEST(ExportedVocabulary, WordPiecesWithoutTextKeepTheirIds) {
  VocabularySpec spec{.model = VocabularySpec::Model::kWordPiece};
  spec.tokens = {"[UNK]", "", "\u2581ab", "", "c"};
  spec.kinds.assign(spec.tokens.size(), TokenKind::kNormal);
  spec.kinds[0] = TokenKind::kUnknown, spec.kinds[3] = TokenKind::kControl;
  const auto tokenizer = Tokenizer::from_vocabulary(spec, "v");
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->encode("abc x", true, false), (std::vector<TokenId>{2, 4, 0}));
  EXPECT_EQ(tokenizer->token_text(1) + tokenizer->token_text(3), "");
}

TEST(ExportedVocabulary, ATokenWithoutTextAtTheBeginningOfTextsIsRefused) {
  VocabularySpec spec;
  spec.pre = "gpt-2", spec.tokens = {"a", ""}, spec.bos = 1, spec.add_bos = true;
  const auto tokenizer = Tokenizer::from_vocabulary(spec, "v");
  ASSERT_FALSE(tokenizer.has_value());
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kBadInput);
}

}  // namespace
}  // namespace tq
