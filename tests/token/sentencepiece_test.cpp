// tokenizer.model, made by hand: pieces with scores and kinds as SentencePiece's protocol buffers store them.
#include <cstring>

#include <gmock/gmock.h>

#include "token/tokenizer.h"

namespace tq {
namespace {

struct Piece {
  std::string text;
  float score;
  TokenKind kind;
};

const std::vector<Piece>& pieces() {
  static const std::vector<Piece> kPieces = {{"<unk>", 0, TokenKind::kUnknown}, {"<s>", 0, TokenKind::kControl},
                                             {"</s>", 0, TokenKind::kControl},  {"▁", -5, TokenKind::kNormal},
                                             {"a", -6, TokenKind::kNormal},     {"b", -7, TokenKind::kNormal},
                                             {"ab", -1, TokenKind::kNormal},    {"▁ab", -2, TokenKind::kNormal}};
  return kPieces;
}

// Field 1 of the model: a piece, with its text (1), score (2) and kind (3: 1 normal, 2 unknown, 3 control).
std::string model_proto() {
  std::string out;
  for (const Piece& piece : pieces()) {
    std::string message = "\x0a" + std::string(1, static_cast<char>(piece.text.size())) + piece.text + "\x15";
    char score[4];
    std::memcpy(score, &piece.score, sizeof score);
    message.append(score, 4);
    message += "\x18";
    message += static_cast<char>(piece.kind == TokenKind::kNormal ? 1 : piece.kind == TokenKind::kUnknown ? 2 : 3);
    out += "\x0a" + std::string(1, static_cast<char>(message.size())) + message;
  }
  return out + "\x12\x02\x18\x02";  // of the trainer's settings (2) the type (3): BPE
}

Result<Tokenizer> read(const std::string& proto, const Json& config = Json::object()) {
  return Tokenizer::from_sentencepiece(std::as_bytes(std::span(proto)), config, "tokenizer.model");
}

Json listed(const char* id, const char* content, bool special) { return {{id, {{"content", content}, {"special", special}}}}; }

TEST(SentencePieceFile, GivesTheIdsOfTheSameVocabulary) {
  const auto tokenizer = read(model_proto());
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->size(), static_cast<int64_t>(pieces().size()));
  const std::vector<TokenId> ids = tokenizer->encode("ab a", false, false);
  EXPECT_EQ(ids, (std::vector<TokenId>{7, 3, 4}));
  EXPECT_EQ(tokenizer->decode(ids, false), "ab a");
}

TEST(SentencePieceFile, EveryTruncationIsAnErrorOrSound) {
  const std::string whole = model_proto();
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto tokenizer = read(whole.substr(0, size));
    if (!tokenizer) EXPECT_EQ(tokenizer.error().code, ErrorCode::kBadInput);
  }
}

TEST(SentencePieceFile, TokensOfTheConfigurationFollowThePieces) {
  Json added = listed("9", "<tool>", false);
  added.update(listed("8", "<|im_end|>", true));
  added["9"]["rstrip"] = true;
  const auto tokenizer =
      read(model_proto(), {{"added_tokens_decoder", added}, {"eos_token", "<|im_end|>"}, {"pad_token", {{"content", "<pad>"}}}});
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->size(), 11);
  EXPECT_EQ(tokenizer->bos(), 1) << "of the pieces: the configuration names none";
  EXPECT_EQ(tokenizer->eos(), 8);
  EXPECT_EQ(tokenizer->end_of_turn(), std::vector<TokenId>{8});
  EXPECT_EQ(tokenizer->find("<pad>"), 10) << "what is named and has no id gets the next one";
  EXPECT_TRUE(tokenizer->is_special(8) && tokenizer->is_special(10) && tokenizer->is_special(2));
  EXPECT_FALSE(tokenizer->is_special(9));
  const std::vector<TokenId> ids = tokenizer->encode("ab<|im_end|><tool> a", true, false);
  EXPECT_EQ(ids, (std::vector<TokenId>{7, 8, 9, 4}));
  EXPECT_EQ(tokenizer->decode(ids, true), "ab<tool>a");
  EXPECT_THAT(tokenizer->encode("<|im_end|><tool>", false, false),
              testing::AllOf(testing::Contains(9), testing::Not(testing::Contains(8))));
}

TEST(SentencePieceFile, TokensOfTheConfigurationMayReplaceAndNamePieces) {
  const auto tokenizer =
      read(model_proto(), {{"added_tokens_decoder", listed("5", "<x>", false)}, {"additional_special_tokens", {"ab", "<x>"}}});
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->size(), static_cast<int64_t>(pieces().size()));
  EXPECT_EQ(tokenizer->token_text(5), "<x>");
  EXPECT_TRUE(tokenizer->is_special(5) && tokenizer->is_special(6));
  EXPECT_EQ(tokenizer->encode("<x>ab", true, false), (std::vector<TokenId>{5, 6}));
}

// As added_tokens.json has them: texts and ids alone.
TEST(SentencePieceFile, AListThatSaysNothingNewLeavesControlPiecesWhatTheyAre) {
  const Tokenizer before = read(model_proto(), Json::object()).value();
  Json added = Json::object();
  for (size_t i = 0; i < pieces().size(); ++i) added[std::to_string(i)] = {{"content", before.token_text(static_cast<TokenId>(i))}};
  const Tokenizer after = read(model_proto(), {{"added_tokens_decoder", added}}).value();
  int64_t special = 0;
  for (TokenId id = 0; id < before.size(); ++id) {
    EXPECT_EQ(after.is_special(id), before.is_special(id)) << id;
    special += before.is_special(id);
  }
  EXPECT_GT(special, 0);
}

TEST(SentencePieceFile, IdsThatNoTokenHasMayLieBetweenAddedOnes) {
  const auto tokenizer = read(model_proto(), {{"added_tokens_decoder", listed("10", "<x>", true)}});
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->size(), 11);
  EXPECT_EQ(tokenizer->encode("<x>", true, false), (std::vector<TokenId>{10}));
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{9, 10}, false), "<x>");
}

TEST(SentencePieceFile, TokensOfTheConfigurationWithoutAPlaceAreRefused) {
  const auto error_of = [](const Json& added) {
    const auto tokenizer = read(model_proto(), {{"added_tokens_decoder", added}});
    return tokenizer ? std::string("none") : tokenizer.error().message;
  };
  EXPECT_THAT(error_of(listed("9000", "<x>", true)), testing::HasSubstr("'<x>' has the id 9000, far beyond the 8 tokens before it"));
  EXPECT_THAT(error_of(listed("8", "ab", true)), testing::HasSubstr("'ab' has the ids 6 and 8"));
  Json twice = listed("8", "<x>", true);
  twice.update(listed("08", "<y>", true));
  EXPECT_THAT(error_of(twice), testing::HasSubstr("'<x>' and '<y>' have the same id 8"));
  EXPECT_THAT(error_of(listed("-1", "<x>", true)), testing::HasSubstr("'-1' for an id"));
  EXPECT_THAT(error_of({{"8", {{"special", true}}}}), testing::HasSubstr("'content' is missing"));
  EXPECT_THAT(error_of(5), testing::HasSubstr("added_tokens_decoder should be an object"));
}

}  // namespace
}  // namespace tq
