// tokenizer.model, made by hand: pieces with scores and kinds as SentencePiece's protocol buffers store them.
#include <cstring>

#include <gtest/gtest.h>

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

Result<Tokenizer> read(const std::string& proto) {
  return Tokenizer::from_sentencepiece(std::as_bytes(std::span(proto)), Json::object(), "tokenizer.model");
}

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

}  // namespace
}  // namespace tq
