// A template's text as tokens, with the whitespace rules of trim_blocks and lstrip_blocks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tq::jinja {

enum class TokenKind { kData, kPrintBegin, kPrintEnd, kBlockBegin, kBlockEnd, kName, kString, kInteger, kFloat, kOperator, kEnd };

struct Token {
  TokenKind kind;
  int line;
  std::string text;  // strings: unescaped
};

// Throws Problem. The last token is kEnd.
std::vector<Token> tokenize(std::string_view source);

}  // namespace tq::jinja
