#include "token/jinja/lexer.h"

#include <algorithm>

#include "token/jinja/text.h"
#include "token/jinja/value.h"
#include "token/utf8.h"

namespace tq::jinja {
namespace {

bool is_name_byte(char c) {
  const auto u = static_cast<uint8_t>(c);
  return u >= 0x80 || c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_decimal(char c) { return c >= '0' && c <= '9'; }

// Line ends become \n; one at the very end goes.
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    out += source[i] == '\r' ? '\n' : source[i];
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

// Python's escapes within quotes; an unknown one stays as it is.
std::string unescape(std::string_view text, int line) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 >= text.size()) {
      out += text[i];
      continue;
    }
    const char c = text[++i];
    static constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (const size_t at = kFrom.find(c); at != std::string_view::npos) {
      out += kTo[at];
    } else if (digits) {
      uint32_t code = 0;
      for (size_t k = 0; k < digits; ++k) {
        const char h = i + 1 < text.size() ? text[++i] : ' ';
        const size_t digit = std::string_view("0123456789abcdef").find(static_cast<char>(h | 0x20));
        if (digit == std::string_view::npos || h < '0' || code > 0xfffffff) throw Problem{"a broken escape in a string", line};
        code = code << 4 | static_cast<uint32_t>(digit);
      }
      if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) throw Problem{"an escape of no character in a string", line};
      utf8_append(out, code);
    } else if (c >= '0' && c <= '7') {
      uint32_t code = static_cast<uint32_t>(c - '0');
      for (int k = 0; k < 2 && i + 1 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '7'; ++k)
        code = code * 8 + static_cast<uint32_t>(text[++i] - '0');
      utf8_append(out, code);
    } else if (c == 'N') {
      throw Problem{"an escape by name in a string", line};
    } else if (c != '\n') {
      (out += '\\') += c;
    }
  }
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) data();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool next_is(std::string_view text, size_t at) const { return std::string_view(source_).substr(at, text.size()) == text; }
  char peek(size_t ahead = 0) const { return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0'; }
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }
  void go_to(size_t at) {
    line_ += static_cast<int>(
        std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_), source_.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
    at_ = at;
  }
  size_t after_space(size_t at) const {
    while (at < source_.size() && is_space(char_at(source_, at))) at += char_bytes(source_, at);
    return at;
  }

  // Text up to a tag whose sign stands at source_[tag + 2], less what the whitespace rules take.
  void add_data(size_t tag, bool is_print) {
    std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign == '-') {
      text = strip(text, false, true);
    } else if (sign != '+' && !is_print) {
      const size_t newline = text.rfind('\n');
      const size_t from = newline == std::string_view::npos ? 0 : newline + 1;
      const bool at_line_start = from > 0 || at_ == 0 || source_[at_ - 1] == '\n';
      if (at_line_start && strip(text.substr(from), true, false).empty()) text = text.substr(0, from);
    }
    if (!text.empty()) add(TokenKind::kData, std::string(text));
    go_to(tag);
  }

  // Where a tag that closes at `at` with `close` ends, spaces and the line end that it takes included; 0 when none closes there.
  size_t tag_end(size_t at, std::string_view close, bool trims) const {
    if (next_is("-", at) && next_is(close, at + 1)) return after_space(at + 3);
    if (trims && next_is("+", at) && next_is(close, at + 1)) return at + 3;
    if (!next_is(close, at)) return 0;
    return at + 2 + (trims && next_is("\n", at + 2));
  }

  void data() {
    size_t tag = source_.find('{', at_);
    while (tag != std::string::npos &&
           !(tag + 1 < source_.size() && std::string_view("{%#").find(source_[tag + 1]) != std::string_view::npos))
      tag = source_.find('{', tag + 1);
    if (tag == std::string::npos) {
      add(TokenKind::kData, source_.substr(at_));
      return go_to(source_.size());
    }
    const char type = source_[tag + 1];
    add_data(tag, type == '{');
    const bool sign = peek(2) == '-' || peek(2) == '+';
    if (type == '#') return comment();
    if (type == '%' && raw()) return;
    go_to(at_ + 2 + sign);
    if (type == '{') code(TokenKind::kPrintBegin, TokenKind::kPrintEnd, "}}");
    else code(TokenKind::kBlockBegin, TokenKind::kBlockEnd, "%}");
  }

  void comment() {
    const size_t sign = peek(2) == '-' || peek(2) == '+';
    const size_t close = source_.find("#}", at_ + 2 + sign);
    if (close == std::string::npos) throw Problem{"a comment has no end", line_};
    const char last = close > at_ + 2 + sign ? source_[close - 1] : ' ';
    go_to(last == '-' ? after_space(close + 2) : close + 2 + (last != '+' && next_is("\n", close + 2)));
  }

  bool raw() {
    size_t at = after_space(at_ + 2 + (peek(2) == '-' || peek(2) == '+'));
    if (!next_is("raw", at)) return false;
    const size_t begin = tag_end(after_space(at + 3), "%}", false);
    if (begin == 0) return false;
    go_to(begin);
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 1)) {
      at = after_space(tag + 2 + (next_is("-", tag + 2) || next_is("+", tag + 2)));
      if (!next_is("endraw", at)) continue;
      const size_t end = tag_end(after_space(at + 6), "%}", true);
      if (end == 0) continue;
      add_data(tag, false);
      go_to(end);
      return true;
    }
    throw Problem{"a raw block has no end", line_};
  }

  void code(TokenKind begin, TokenKind end, std::string_view close) {
    add(begin, "");
    for (open_.clear();;) {
      if (const size_t after = open_.empty() ? tag_end(at_, close, close == "%}") : 0) {
        add(end, "");
        return go_to(after);
      }
      const size_t next = after_space(at_);
      if (next != at_) go_to(next);
      else if (at_ >= source_.size()) throw Problem{"the template ends within a tag", line_};
      else token();
    }
  }

  void token() {
    const char c = peek();
    if (is_decimal(c)) return number();
    if (c == '"' || c == '\'') return quoted(c);
    if (is_name_byte(c)) {
      size_t end = at_;
      while (end < source_.size() && is_name_byte(source_[end])) ++end;
      add(TokenKind::kName, source_.substr(at_, end - at_));
      return go_to(end);
    }
    for (const char* two : {"//", "**", "==", "!=", "<=", ">="})
      if (next_is(two, at_)) {
        add(TokenKind::kOperator, two);
        return go_to(at_ + 2);
      }
    if (std::string_view("+-/*%~[](){}<>=.:|,;").find(c) == std::string_view::npos || c == '\0')
      throw Problem{fmt::format("unexpected character '{}'", c < ' ' ? '?' : c), line_};
    balance(c);
    add(TokenKind::kOperator, std::string(1, c));
    go_to(at_ + 1);
  }

  void balance(char c) {
    static constexpr std::string_view kOpen = "([{", kClose = ")]}";
    if (const size_t kind = kOpen.find(c); kind != std::string_view::npos) {
      open_.push_back(kClose[kind]);
    } else if (kClose.find(c) != std::string_view::npos) {
      if (open_.empty()) throw Problem{fmt::format("unexpected '{}'", c), line_};
      if (open_.back() != c) throw Problem{fmt::format("unexpected '{}', expected '{}'", c, open_.back()), line_};
      open_.pop_back();
    }
  }

  // The end of digits that single underscores may separate.
  size_t digits(size_t at) const {
    while (at < source_.size() &&
           (is_decimal(source_[at]) || (source_[at] == '_' && at + 1 < source_.size() && is_decimal(source_[at + 1]))))
      ++at;
    return at;
  }

  void number() {
    const auto take = [&](TokenKind kind, size_t end) {
      std::string text = source_.substr(at_, end - at_);
      std::erase(text, '_');
      add(kind, std::move(text));
      go_to(end);
    };
    const char base = static_cast<char>(peek(1) | 0x20);
    if (peek() == '0' && (base == 'x' || base == 'o' || base == 'b') && is_name_byte(peek(2))) {
      size_t end = at_ + 2;
      while (end < source_.size() && is_name_byte(source_[end])) ++end;
      return take(TokenKind::kInteger, end);
    }
    const size_t whole = digits(at_);
    size_t end = whole;
    if (!(at_ > 0 && source_[at_ - 1] == '.')) {
      if (next_is(".", end) && end + 1 < source_.size() && is_decimal(source_[end + 1])) end = digits(end + 1);
      if (end < source_.size() && (source_[end] | 0x20) == 'e') {
        const size_t sign = end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-');
        if (end + 1 + sign < source_.size() && is_decimal(source_[end + 1 + sign])) end = digits(end + 1 + sign);
      }
    }
    take(end == whole ? TokenKind::kInteger : TokenKind::kFloat, end);
  }

  void quoted(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) throw Problem{"a string has no end", line_};
    add(TokenKind::kString, unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1), line_));
    go_to(end + 1);
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
  std::vector<char> open_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(normalize(source)).run(); }

}  // namespace tq::jinja
