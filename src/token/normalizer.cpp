#include "token/normalizer.h"

#include <algorithm>

#include <utf8proc.h>

#include "token/added_tokens.h"
#include "token/utf8.h"

namespace tq {
namespace {

using CodePoints = std::vector<utf8proc_int32_t>;

utf8proc_category_t category_of(uint32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

// Every character mapped to some text.
template <typename Map>
std::string mapped(std::string_view text, const Map& map) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(text, at);
    map(out, utf8_decode(text, at), text.substr(at, length));
    at += length;
  }
  return out;
}

CodePoints decomposed(std::string_view text, bool is_compatible) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE | (is_compatible ? UTF8PROC_COMPAT : 0));
  CodePoints out;
  for (size_t at = 0; at < text.size(); at += utf8_length(text, at)) {
    utf8proc_int32_t parts[32];
    int boundary = UTF8PROC_BOUNDCLASS_START;
    const auto c = static_cast<utf8proc_int32_t>(utf8_decode(text, at));
    const utf8proc_ssize_t count = utf8proc_decompose_char(c, parts, std::size(parts), options, &boundary);
    if (count < 0 || count > static_cast<utf8proc_ssize_t>(std::size(parts))) out.push_back(c);
    else out.insert(out.end(), parts, parts + count);
  }
  return out;
}

// Canonical order; utf8proc's own takes quadratic time on long runs of marks.
void order_marks(CodePoints& text) {
  const auto rank = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto begin = text.begin(); begin != text.end();) {
    if (rank(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, text.end(), [&](utf8proc_int32_t c) { return rank(c) == 0; });
    std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) { return rank(a) < rank(b); });
    begin = end;
  }
}

std::string unicode_form(std::string_view text, UnicodeForm::Kind kind) {
  CodePoints points = decomposed(text, kind == UnicodeForm::kNfkc || kind == UnicodeForm::kNfkd);
  order_marks(points);
  if (kind == UnicodeForm::kNfc || kind == UnicodeForm::kNfkc) {
    const utf8proc_ssize_t length = utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                                                             static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    if (length >= 0) points.resize(static_cast<size_t>(length));
  }
  std::string out;
  for (const utf8proc_int32_t c : points) utf8_append(out, static_cast<uint32_t>(c));
  return out;
}

bool is_ideograph(uint32_t c) {
  return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
         (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

std::string run(const UnicodeForm& step, std::string_view text) { return unicode_form(text, step.kind); }

std::string run(const Lowercase&, std::string_view text) {
  return mapped(text, [](std::string& out, uint32_t c, std::string_view) {
    if (c == 0x130) out += "i\xcc\x87";  // the one capital that becomes two characters
    else utf8_append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  });
}

std::string run(const StripAccents& step, std::string_view text) {
  return mapped(text, [&](std::string& out, uint32_t c, std::string_view character) {
    const utf8proc_category_t category = category_of(c);
    const bool is_spacing = category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
    if (category != UTF8PROC_CATEGORY_MN && !(step.spacing_too && is_spacing)) out += character;
  });
}

std::string run(const CleanText&, std::string_view text) {
  return mapped(text, [](std::string& out, uint32_t c, std::string_view character) {
    const utf8proc_category_t category = category_of(c);
    if (c == '\t' || c == '\n' || c == '\r') out += ' ';
    else if (c == 0 || c == 0xfffd || category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
             category == UTF8PROC_CATEGORY_CO || category == UTF8PROC_CATEGORY_CN)
      return;
    else if (is_space_at(character, 0)) out += ' ';
    else out += character;
  });
}

std::string run(const SpaceIdeographs&, std::string_view text) {
  return mapped(text, [](std::string& out, uint32_t c, std::string_view character) {
    if (is_ideograph(c)) (out += ' ').append(character) += ' ';
    else out += character;
  });
}

std::string run(const ReplaceText& step, std::string_view text) {
  std::string out(text);
  replace_all(out, step.from, step.to);
  return out;
}

std::string run(const ReplaceRegex& step, std::string_view text) {
  std::string out;
  size_t at = 0;
  for (const auto& [begin, end] : step.from.find_all(text)) {
    out.append(text, at, begin - at).append(step.to);
    at = end;
  }
  return out.append(text, at);
}

std::string run(const PrependText& step, std::string_view text) { return text.empty() ? std::string() : step.text + std::string(text); }

std::string run(const StripSpace& step, std::string_view text) {
  size_t begin = 0, end = text.size();
  while (step.left && begin < end && is_space_at(text, begin)) begin += utf8_length(text, begin);
  while (step.right && end > begin && is_space_at(text, character_before(text, end))) end = character_before(text, end);
  return std::string(text.substr(begin, end - begin));
}

std::string run(const SingleSpaces&, std::string_view text) {
  std::string out;
  for (const char c : text)
    if (c != ' ' || (!out.empty() && out.back() != ' ')) out += c;
  constexpr std::string_view kSpaceMark = "\xe2\x96\x81";
  while (out.ends_with(' ') || out.ends_with(kSpaceMark)) out.resize(out.size() - (out.ends_with(' ') ? 1 : kSpaceMark.size()));
  return out;
}

std::string run(const Charsmap& map, std::string_view text) { return map.apply(text); }

}  // namespace

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  std::string out;
  size_t at = 0;
  for (size_t found = text.find(from); found != std::string::npos; found = text.find(from, at)) {
    out.append(text, at, found - at).append(to);
    at = found + from.size();
  }
  text = out.append(text, at);
}

std::string normalize(const std::vector<NormalizeStep>& steps, std::string_view text) {
  std::string out(text);
  for (const NormalizeStep& step : steps) out = std::visit([&](const auto& one) { return run(one, out); }, step);
  return out;
}

}  // namespace tq
