// A tokenizer for tests of how text is cut into sequences.
#pragma once

#include "base/check.h"
#include "token/tokenizer.h"

namespace tq {

// A token a letter, and bos at the front.
inline Tokenizer letters() {
  VocabularySpec spec;
  spec.pre = "gpt-2";
  for (char c = 'a'; c <= 'z'; ++c) spec.tokens.emplace_back(1, c);
  spec.tokens.emplace_back("<s>");
  spec.kinds.assign(26, TokenKind::kNormal);
  spec.kinds.push_back(TokenKind::kControl);
  spec.bos = 26, spec.add_bos = true;
  auto tokenizer = Tokenizer::from_vocabulary(spec, "letters");
  TQ_CHECK(tokenizer.has_value());
  return *tokenizer;
}

}  // namespace tq
