// Rewriting a text before it is cut: the normalizers of Hugging Face's tokenizers and of SentencePiece.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "token/charsmap.h"
#include "token/pretokenizer.h"
#include "token/rewriting.h"

namespace tq {

struct UnicodeForm {
  enum Kind : uint8_t { kNfc, kNfd, kNfkc, kNfkd } kind;
};
struct Lowercase {};
struct StripAccents {  // drops marks
  bool spacing_too = true;
};
// Control characters go, white space becomes spaces: what BERT did to its texts.
struct CleanText {};
struct SpaceIdeographs {};  // spaces around every CJK ideograph
struct ReplaceText {
  std::string from, to;
};
struct ReplaceRegex {
  Regex from;
  std::string to;
};
struct PrependText {
  std::string text;
};
struct StripSpace {
  bool left, right;
};
// Spaces only: none at the ends, none beside another; marks for spaces (▁) that end the text go with them, as in SentencePiece.
struct SingleSpaces {};
using NormalizeStep = std::variant<UnicodeForm, Lowercase, StripAccents, CleanText, SpaceIdeographs, ReplaceText, ReplaceRegex, PrependText,
                                   StripSpace, SingleSpaces, Charsmap>;

// text must be valid UTF-8; linear in its length.
std::string normalize(const std::vector<NormalizeStep>& steps, std::string_view text);
// The same; of forms of Unicode and clusters of characters it is told only roughly what became of what.
Rewriting normalize_traced(const std::vector<NormalizeStep>& steps, std::string_view text);

void replace_all(std::string& text, std::string_view from, std::string_view to);

}  // namespace tq
