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

}  // namespace
}  // namespace tq
