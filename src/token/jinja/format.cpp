// Python's % formatting and str.format().
#include <algorithm>
#include <cmath>
#include <optional>

#include "token/jinja/operators.h"
#include "token/jinja/print.h"
#include "token/jinja/text.h"

namespace tq::jinja {
namespace {

constexpr int64_t kMaxWidth = 10000, kMaxPrecision = 100;

struct Spec {
  std::string fill = " ";
  char align = 0, sign = '-', type = 0;
  bool alternate = false, zero = false, comma = false;
  int64_t width = 0, precision = -1;
};

class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}
  bool done() const { return at_ >= text_.size(); }
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  char take() { return done() ? '\0' : text_[at_++]; }
  bool skip(char c) {
    const bool found = !done() && peek() == c;
    at_ += found;
    return found;
  }
  std::optional<int64_t> number(int64_t limit) {
    if (peek() < '0' || peek() > '9') return std::nullopt;
    int64_t out = 0;
    while (peek() >= '0' && peek() <= '9') {
      out = out * 10 + (take() - '0');
      if (out > limit) fail("a width or precision above {} in a format", limit);
    }
    return out;
  }
  std::string_view until(std::string_view ends) {
    const size_t end = std::min(text_.find_first_of(ends, at_), text_.size());
    const std::string_view out = text_.substr(at_, end - at_);
    at_ = end;
    return out;
  }
  std::string_view chars(size_t bytes) {
    const std::string_view out = text_.substr(at_, bytes);
    at_ += out.size();
    return out;
  }
  size_t next_char() const { return char_bytes(text_, at_); }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

std::string pad(const Spec& spec, const std::string& text, char default_align) {
  const int64_t missing = spec.width - count_chars(text);
  if (missing <= 0) return text;
  const char align = spec.align ? spec.align : default_align;
  const int64_t left = align == '>' ? missing : align == '^' ? missing / 2 : 0;
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += spec.fill;
  out += text;
  for (int64_t i = left; i < missing; ++i) out += spec.fill;
  return out;
}

// digits: without a sign; zeros and separators come between the sign and them.
std::string pad_number(const Spec& spec, bool negative, std::string digits, const std::string& prefix) {
  if (spec.comma) {
    const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
    for (size_t at = whole; at > 3; at -= 3) digits.insert(at - 3, ",");
  }
  const std::string sign = (negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign)) + prefix;
  if ((spec.zero && !spec.align) || spec.align == '=') {
    const auto size = static_cast<int64_t>(sign.size() + digits.size());
    const std::string fill = spec.align == '=' ? spec.fill : "0";
    std::string zeros;
    for (int64_t i = size; i < spec.width; ++i) zeros += fill;
    return sign + zeros + digits;
  }
  return pad(spec, sign + digits, '>');
}

std::string format_float(const Spec& spec, double value, char type) {
  const int precision = static_cast<int>(spec.precision < 0 ? 6 : spec.precision);
  const double size = std::abs(type == '%' ? value * 100 : value);
  std::string digits;
  if (!std::isfinite(size)) digits = std::isnan(size) ? "nan" : "inf";
  else if (type == 0 && spec.precision < 0) digits = float_text(size);
  else if (type == 'e' || type == 'E') digits = fmt::format("{:.{}e}", size, precision);
  else if (type == 'g' || type == 'G' || type == 0) digits = fmt::format("{:.{}g}", size, std::max(precision, 1));
  else digits = fmt::format("{:.{}f}", size, precision);
  if (type == 'E' || type == 'G') digits = to_upper(digits);
  if (type == '%') digits += "%";
  return pad_number(spec, std::signbit(value) && !std::isnan(value), digits, "");
}

std::string format_whole(const Spec& spec, int64_t value, char type) {
  const uint64_t size = value < 0 ? uint64_t{0} - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  switch (type) {
    case 'x': return pad_number(spec, value < 0, fmt::format("{:x}", size), spec.alternate ? "0x" : "");
    case 'X': return pad_number(spec, value < 0, fmt::format("{:X}", size), spec.alternate ? "0X" : "");
    case 'o': return pad_number(spec, value < 0, fmt::format("{:o}", size), spec.alternate ? "0o" : "");
    case 'b': return pad_number(spec, value < 0, fmt::format("{:b}", size), spec.alternate ? "0b" : "");
    default: return pad_number(spec, value < 0, fmt::format("{}", size), "");
  }
}

std::string format_text(const Spec& spec, std::string text) {
  if (spec.precision >= 0) text.resize(byte_offset(text, spec.precision));
  return pad(spec, text, '<');
}

constexpr std::string_view kFloatTypes = "eEfFgG%", kWholeTypes = "dxXob";

// One value by str.format()'s rules.
std::string format_value(Runtime& runtime, const Value& value, const Spec& spec) {
  const bool float_type = spec.type && kFloatTypes.find(spec.type) != std::string_view::npos;
  const bool whole_type = spec.type && kWholeTypes.find(spec.type) != std::string_view::npos;
  if (value.is_number() && float_type) return format_float(spec, value.number(), spec.type);
  if (value.is_whole() && (whole_type || (!spec.type && value.is_int()))) return format_whole(spec, value.integer(), spec.type);
  if (value.is_float() && !spec.type) return format_float(spec, value.number(), 0);
  if (spec.type && spec.type != 's') fail("the format '{}' is not for a {}", spec.type, type_name(value));
  return format_text(spec, to_text(runtime, value));
}

Spec parse_spec(std::string_view text) {
  Spec out;
  Cursor cursor(text);
  const size_t first = cursor.done() ? 0 : cursor.next_char();
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (first && is_align(cursor.peek(first))) out.fill = std::string(cursor.chars(first));
  if (is_align(cursor.peek())) out.align = cursor.take();
  if (cursor.peek() == '+' || cursor.peek() == '-' || cursor.peek() == ' ') out.sign = cursor.take();
  out.alternate = cursor.skip('#');
  out.zero = cursor.skip('0');
  out.width = cursor.number(kMaxWidth).value_or(0);
  out.comma = cursor.skip(',');
  if (cursor.skip('.')) {
    const auto precision = cursor.number(kMaxPrecision);
    if (!precision) fail("a format lacks its precision");
    out.precision = *precision;
  }
  if (!cursor.done()) out.type = cursor.take();
  if (!cursor.done()) fail("the format '{:.40}' is not understood", text);
  return out;
}

// One %-conversion; `cursor` stands after the '%' and the key.
Spec parse_percent(Cursor& cursor, const std::function<const Value&()>& next) {
  Spec out;
  for (;; cursor.take()) {
    const char c = cursor.peek();
    if (c == '-') out.align = '<';
    else if (c == '+' || (c == ' ' && out.sign != '+')) out.sign = c;
    else if (c == '0') out.zero = true;
    else if (c == '#') out.alternate = true;
    else if (c != ' ') break;
  }
  const auto number = [&](int64_t limit) {
    if (!cursor.skip('*')) return cursor.number(limit).value_or(0);
    const int64_t given = whole_number(next(), "a width");
    if (given < 0 || given > limit) fail("a width or precision outside 0 to {} in a format", limit);
    return given;
  };
  out.width = number(kMaxWidth);
  if (cursor.skip('.')) out.precision = number(kMaxPrecision);
  out.type = cursor.take();
  return out;
}

std::string convert_percent(Runtime& runtime, const Value& value, Spec spec) {
  const char type = spec.type;
  if (type == 's' || type == 'r' || type == 'a') {
    if (!spec.align) spec.align = '>';
    return format_text(spec, type == 's' ? to_text(runtime, value) : repr(runtime, value));
  }
  if (type == 'c' && value.is_text() && count_chars(value.text()) == 1) return pad(spec, value.text(), '>');
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_number()) fail("'%{}' wants a number, not a {}", type, type_name(value));
  if (kFloatTypes.find(type) != std::string_view::npos) return format_float(spec, value.number(), type);
  if (type != 'd' && type != 'i' && type != 'u' && type != 'x' && type != 'X' && type != 'o') fail("'%{}' is no format", type);
  if (value.is_float() && (type == 'x' || type == 'X' || type == 'o')) fail("'%{}' wants an integer", type);
  if (value.is_float() && !(std::abs(value.number()) < 9e18)) fail("a number beyond 63 bits");
  return format_whole(spec, value.is_float() ? static_cast<int64_t>(value.number()) : value.integer(), type);
}

}  // namespace

std::string format_percent(Runtime& runtime, std::string_view text, const Value& values) {
  const Sequence* tuple = values.sequence();
  if (tuple && tuple->flavour != Flavour::kTuple) tuple = nullptr;
  size_t used = 0;
  const auto next = [&]() -> const Value& {
    if (used >= (tuple ? tuple->items.size() : 1)) fail("not enough arguments for the format");
    return tuple ? tuple->items[used++] : (++used, values);
  };
  Growing out(runtime);
  bool keyed = false;
  for (Cursor cursor(text); !cursor.done();) {
    out.add(cursor.until("%"));
    if (!cursor.skip('%')) break;
    if (cursor.skip('%')) {
      out.add("%");
      continue;
    }
    const Value* named = nullptr;
    if (cursor.skip('(')) {
      const std::string key(cursor.until(")"));
      if (!cursor.skip(')') || !values.dict()) fail("a format with names wants a dict");
      named = find(runtime, *values.dict(), Value(key));
      if (!named) fail("the format's '{:.40}' is not given", key);
      keyed = true;
    }
    const Spec spec = parse_percent(cursor, next);
    if (!spec.type) fail("a format ends within '%'");
    out.add(convert_percent(runtime, named ? *named : next(), spec));
  }
  if (!keyed && !values.dict() && used < (tuple ? tuple->items.size() : 1)) fail("not all arguments are used by the format");
  return out.take();
}

namespace {

// The value that a replacement field names: 0, name, 0.attribute, name[key].
Value field_value(Runtime& runtime, Cursor& cursor, const Arguments& arguments, size_t& automatic) {
  Value out;
  const std::string name(cursor.until(".[!:}"));
  const bool numeric = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (name.empty() || numeric) {
    const size_t index = name.empty() ? automatic++ : name.size() > 6 ? SIZE_MAX : std::stoul(name);
    if (index >= arguments.positional.size()) fail("not enough arguments for the format");
    out = arguments.positional[index];
  } else {
    const auto found = std::find_if(arguments.named.begin(), arguments.named.end(), [&](const auto& one) { return one.first == name; });
    if (found == arguments.named.end()) fail("the format's '{:.40}' is not given", name);
    out = found->second;
  }
  for (;;) {
    if (cursor.skip('.')) {
      out = attribute(runtime, out, std::string(cursor.until(".[!:}")));
    } else if (cursor.skip('[')) {
      const std::string key(cursor.until("]"));
      if (!cursor.skip(']')) fail("a format lacks ']'");
      const bool index =
          !key.empty() && key.size() < 10 && std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; });
      out = item(runtime, out, index ? Value(int64_t{std::stol(key)}) : Value(key));
    } else {
      return out;
    }
  }
}

}  // namespace

std::string format_braces(Runtime& runtime, std::string_view text, const Arguments& arguments) {
  Growing out(runtime);
  size_t automatic = 0;
  for (Cursor cursor(text); !cursor.done();) {
    out.add(cursor.until("{}"));
    if (cursor.done()) break;
    const char brace = cursor.take();
    if (cursor.skip(brace)) {
      out.add(std::string(1, brace));
      continue;
    }
    if (brace == '}') fail("a single '}}' in a format");
    Value value = field_value(runtime, cursor, arguments, automatic);
    if (cursor.skip('!')) {
      const char conversion = cursor.take();
      if (conversion != 'r' && conversion != 's') fail("an unknown conversion in a format");
      value = runtime.make_text(conversion == 'r' ? repr(runtime, value) : to_text(runtime, value));
    }
    std::string spec;
    if (cursor.skip(':')) {
      spec = cursor.until("{}");
      while (cursor.skip('{')) {
        spec += to_text(runtime, field_value(runtime, cursor, arguments, automatic));
        if (!cursor.skip('}')) fail("a format lacks '}}'");
        spec += cursor.until("{}");
      }
    }
    if (!cursor.skip('}')) fail("a format lacks '}}'");
    out.add(spec.empty() ? to_text(runtime, value) : format_value(runtime, value, parse_spec(spec)));
  }
  return out.take();
}

}  // namespace tq::jinja
