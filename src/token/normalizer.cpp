#include "token/normalizer.h"

#include <algorithm>

#include <utf8proc.h>

#include "token/added_tokens.h"
#include "token/utf8.h"

namespace tq {
namespace {

using CodePoints = std::vector<utf8proc_int32_t>;

utf8proc_category_t category_of(uint32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

// Every character mapped to some text, which `map` appends.
template <typename Map>
void map_characters(std::string_view text, Rewriting& out, const Map& map) {
  out.text.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(text, at);
    map(out.text, utf8_decode(text, at), text.substr(at, length));
    out.stands_for(at, at + length);
    at += length;
  }
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

// What a form made of [begin, end): an ASCII character in front that it leaves alone is known to be what it was.
void put_behind_front(std::string_view text, std::string_view made, size_t begin, size_t end, Rewriting& out) {
  const size_t front = static_cast<uint8_t>(text[begin]) < 0x80 && made.starts_with(text[begin]) ? 1 : 0;
  out.keep(text, begin, begin + front);
  out.put(made.substr(front), begin + front, end);
}

// No form joins an ASCII character with what stands before it: a text may be cut there, which tells better what became of what.
void run(const UnicodeForm& step, std::string_view text, Rewriting& out) {
  for (size_t begin = 0; begin < text.size();) {
    size_t end = out.is_traced() ? begin + 1 : text.size();
    while (end < text.size() && static_cast<uint8_t>(text[end]) >= 0x80) ++end;
    const std::string_view part = text.substr(begin, end - begin);
    const std::string made = unicode_form(part, step.kind);
    if (made == part) out.keep(text, begin, end);
    else put_behind_front(text, made, begin, end, out);
    begin = end;
  }
}

void run(const Lowercase&, std::string_view text, Rewriting& out) {
  map_characters(text, out, [](std::string& made, uint32_t c, std::string_view) {
    if (c == 0x130) made += "i\xcc\x87";  // the one capital that becomes two characters
    else utf8_append(made, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  });
}

void run(const StripAccents& step, std::string_view text, Rewriting& out) {
  map_characters(text, out, [&](std::string& made, uint32_t c, std::string_view character) {
    const utf8proc_category_t category = category_of(c);
    const bool is_spacing = category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
    if (category != UTF8PROC_CATEGORY_MN && !(step.spacing_too && is_spacing)) made += character;
  });
}

void run(const CleanText&, std::string_view text, Rewriting& out) {
  map_characters(text, out, [](std::string& made, uint32_t c, std::string_view character) {
    const utf8proc_category_t category = category_of(c);
    if (c == '\t' || c == '\n' || c == '\r') made += ' ';
    else if (c == 0 || c == 0xfffd || category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
             category == UTF8PROC_CATEGORY_CO || category == UTF8PROC_CATEGORY_CN)
      return;
    else if (is_space_at(character, 0)) made += ' ';
    else made += character;
  });
}

void run(const SpaceIdeographs&, std::string_view text, Rewriting& out) {
  map_characters(text, out, [](std::string& made, uint32_t c, std::string_view character) {
    if (is_ideograph(c)) (made += ' ').append(character) += ' ';
    else made += character;
  });
}

void replace(std::string_view text, std::string_view from, std::string_view to, Rewriting& out) {
  if (from.empty()) return out.keep(text, 0, text.size());
  size_t at = 0;
  for (size_t found = text.find(from); found != std::string_view::npos; found = text.find(from, at)) {
    out.keep(text, at, found);
    at = found + from.size();
    out.put(to, found, at);
  }
  out.keep(text, at, text.size());
}

void run(const ReplaceText& step, std::string_view text, Rewriting& out) { replace(text, step.from, step.to, out); }

void run(const ReplaceRegex& step, std::string_view text, Rewriting& out) {
  size_t at = 0;
  for (const auto& [begin, end] : step.from.find_all(text)) {
    out.keep(text, at, begin);
    out.put(step.to, begin, end);
    at = end;
  }
  out.keep(text, at, text.size());
}

void run(const PrependText& step, std::string_view text, Rewriting& out) {
  if (text.empty()) return;
  out.put(step.text, 0, 0);
  out.keep(text, 0, text.size());
}

void run(const StripSpace& step, std::string_view text, Rewriting& out) {
  size_t begin = 0, end = text.size();
  while (step.left && begin < end && is_space_at(text, begin)) begin += utf8_length(text, begin);
  while (step.right && end > begin && is_space_at(text, character_before(text, end))) end = character_before(text, end);
  out.keep(text, begin, end);
}

void run(const SingleSpaces&, std::string_view text, Rewriting& out) {
  for (size_t at = 0; at < text.size(); ++at)
    if (text[at] != ' ' || (!out.text.empty() && out.text.back() != ' ')) out.keep(text, at, at + 1);
  constexpr std::string_view kSpaceMark = "\xe2\x96\x81";
  while (out.text.ends_with(' ') || out.text.ends_with(kSpaceMark))
    out.resize(out.text.size() - (out.text.ends_with(' ') ? 1 : kSpaceMark.size()));
}

void run(const Charsmap& map, std::string_view text, Rewriting& out) { map.apply(text, out); }

Rewriting normalized(const std::vector<NormalizeStep>& steps, std::string_view text, bool is_traced) {
  Rewriting out(is_traced);
  out.keep(text, 0, text.size());
  for (const NormalizeStep& step : steps) {
    Rewriting next(is_traced);
    std::visit([&](const auto& one) { run(one, out.text, next); }, step);
    next.follow(out);
    out = std::move(next);
  }
  return out;
}

}  // namespace

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  Rewriting out(false);
  replace(text, from, to, out);
  text = std::move(out.text);
}

std::string normalize(const std::vector<NormalizeStep>& steps, std::string_view text) { return normalized(steps, text, false).text; }

Rewriting normalize_traced(const std::vector<NormalizeStep>& steps, std::string_view text) { return normalized(steps, text, true); }

}  // namespace tq
