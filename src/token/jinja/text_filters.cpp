// Filters of texts and numbers, and tojson.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "token/jinja/interpreter.h"
#include "token/jinja/methods.h"
#include "token/jinja/print.h"
#include "token/jinja/text.h"

namespace tq::jinja {
namespace {

Value as_text(Runtime& runtime, const Value& value) { return value.is_text() ? value : runtime.make_text(to_text(runtime, value)); }

// A filter that is a str method of the subject's text.
Value call_method(Runtime& runtime, const Value& subject, const char* name, const Arguments& given) {
  Value found;
  if (!find_attribute(runtime, as_text(runtime, subject), name, found)) fail("there is no method '{}'", name);
  return found.function()->call(runtime, given);
}

Value upper_filter(Runtime& r, const Value& s, const Arguments& given) { return call_method(r, s, "upper", given); }
Value lower_filter(Runtime& r, const Value& s, const Arguments& given) { return call_method(r, s, "lower", given); }
Value capitalize_filter(Runtime& r, const Value& s, const Arguments& given) { return call_method(r, s, "capitalize", given); }
Value trim_filter(Runtime& r, const Value& s, const Arguments& given) { return call_method(r, s, "strip", given); }

Value center_filter(Runtime& r, const Value& s, const Arguments& given) {
  const auto args = bind(given, "center", {"width"});
  return call_method(r, s, "center", {{args[0] ? *args[0] : Value(int64_t{80})}, {}});
}

Value title_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "title", {});
  const Value value = as_text(runtime, subject);
  const std::string& text = value.text();
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const auto splits = [&](size_t i) {
      return is_space(char_at(text, i)) || std::string_view("-({[<").find(text[i]) != std::string_view::npos;
    };
    if (splits(at)) {
      out += text.substr(at, char_bytes(text, at));
      at += char_bytes(text, at);
      continue;
    }
    const size_t rest = at + char_bytes(text, at);
    size_t end = rest;
    while (end < text.size() && !splits(end)) end += char_bytes(text, end);
    out += to_upper(std::string_view(text).substr(at, rest - at)) + to_lower(std::string_view(text).substr(rest, end - rest));
    at = end;
  }
  return runtime.make_text(std::move(out));
}

Value replace_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "replace", {"old", "new", "count"}, 2);
  Arguments inner{{as_text(runtime, *args[0]), as_text(runtime, *args[1])}, {}};
  if (args[2] && !args[2]->is_none()) inner.positional.push_back(*args[2]);
  return call_method(runtime, subject, "replace", inner);
}

Value string_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "string", {});
  return as_text(runtime, subject);
}

Value safe_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "safe", {});
  return runtime.make_text(to_text(runtime, subject), true);
}

Value escape_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "escape", {});
  if (subject.is_markup()) return subject;
  const std::string text = to_text(runtime, subject);
  runtime.allocate(text.size() * 5);
  return runtime.make_text(escape_html(text), true);
}

Value indent_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "indent", {"width", "first", "blank"});
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.is_text()) fail("indent wants a text, not a {}", type_name(subject));
  const int64_t width = args[0] && args[0]->is_text() ? 0 : args[0] ? std::max<int64_t>(whole_number(*args[0], "width"), 0) : 4;
  runtime.allocate(static_cast<uint64_t>(width));
  const std::string indent = args[0] && args[0]->is_text() ? args[0]->text() : std::string(static_cast<size_t>(width), ' ');
  const bool first = args[1] && truth(*args[1]), blank = args[2] && truth(*args[2]);
  const std::string text = subject.text() + "\n";
  Growing out(runtime);
  bool is_first = true;
  for (const std::string_view line : split_lines(text, false)) {
    if (!is_first) out.add("\n");
    if (is_first ? first : (blank || !line.empty())) out.add(indent);
    is_first = false;
    out.add(line);
  }
  return runtime.make_text(out.take(), subject.is_markup());
}

Value truncate_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "truncate", {"length", "killwords", "end", "leeway"});
  const Value text = as_text(runtime, subject);
  const int64_t size = args[0] ? whole_number(*args[0], "length") : 255, leeway = args[3] ? whole_number(*args[3], "leeway") : 5;
  const std::string end = args[2] ? to_text(runtime, *args[2]) : "...";
  const int64_t kept = size - count_chars(end);
  if (kept < 0 || leeway < 0) fail("truncate: the length is below that of the end, or the leeway negative");
  if (count_chars(text.text()) - leeway <= size) return text;
  std::string out = text.text().substr(0, byte_offset(text.text(), kept));
  if (!(args[1] && truth(*args[1]))) out = out.substr(0, std::min(out.rfind(' '), out.size()));
  return runtime.make_text(out + end);
}

Value wordcount_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "wordcount", {});
  const Value value = as_text(runtime, subject);
  int64_t count = 0;
  bool inside = false;
  for (size_t at = 0; at < value.text().size(); at += char_bytes(value.text(), at)) {
    const uint32_t c = char_at(value.text(), at);
    const bool word = is_letter(c) || is_digit(c) || c == '_';
    count += word && !inside;
    inside = word;
  }
  return count;
}

Value format_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const Value text = as_text(runtime, subject);
  if (given.named.empty())
    return runtime.make_text(format_percent(runtime, text.text(), make_sequence(runtime, given.positional, Flavour::kTuple)));
  if (!given.positional.empty()) fail("format takes arguments by position or by name, not both");
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [name, value] : given.named) entries.emplace_back(runtime.make_text(name), value);
  return runtime.make_text(format_percent(runtime, text.text(), make_dict(runtime, std::move(entries))));
}

Value urlencode_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "urlencode", {});
  std::string out;
  if (subject.dict() || subject.sequence()) fail("urlencode wants a text");
  for (const char c : to_text(runtime, subject)) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       std::string_view("_.-~/").find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<uint8_t>(c));
  }
  return runtime.make_text(std::move(out));
}

// A Python number literal with spaces around; false when it is none.
bool read_float(std::string_view text, double& out) {
  std::string clean(strip(text, true, true));
  std::erase(clean, '_');
  std::string_view digits = clean;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), out);
  if (read.ec == std::errc::result_out_of_range) out = INFINITY;
  return !digits.empty() && read.ptr == digits.data() + digits.size();
}

bool read_whole(std::string_view text, int base, int64_t& out) {
  std::string clean(strip(text, true, true));
  std::erase(clean, '_');
  std::string_view digits = clean;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  if (base == 16 && (digits.starts_with("0x") || digits.starts_with("0X"))) digits.remove_prefix(2);
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), out, base);
  if (read.ec == std::errc::result_out_of_range) fail("the integer {:.40} is beyond 63 bits", clean);
  return !digits.empty() && read.ptr == digits.data() + digits.size();
}

Value int_filter(Runtime&, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "int", {"default", "base"});
  if (subject.is_undefined()) fail_undefined(subject);
  const int64_t base = args[1] ? whole_number(*args[1], "base") : 10;
  if (base < 2 || base > 36) fail("int: the base should be 2 to 36");
  const Value fallback = args[0] ? *args[0] : Value(int64_t{0});
  if (subject.is_whole()) return subject.integer();
  double number = 0;
  int64_t whole = 0;
  if (subject.is_text()) {
    if (read_whole(subject.text(), static_cast<int>(base), whole)) return whole;
    if (!read_float(subject.text(), number)) return fallback;
  } else if (subject.is_float()) {
    number = subject.number();
  } else {
    return fallback;
  }
  if (!std::isfinite(number)) return fallback;
  if (std::abs(number) >= 0x1p63) fail("an integer beyond 63 bits");
  return static_cast<int64_t>(number);
}

Value float_filter(Runtime&, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "float", {"default"});
  if (subject.is_undefined()) fail_undefined(subject);
  double number = 0;
  if (subject.is_number()) return subject.number();
  if (subject.is_text() && read_float(subject.text(), number)) return number;
  return args[0] ? *args[0] : Value(0.0);
}

Value abs_filter(Runtime&, const Value& subject, const Arguments& given) {
  bind(given, "abs", {});
  if (subject.is_float()) return std::abs(subject.number());
  const int64_t value = whole_number(subject, "what abs is applied to");
  return value < 0 ? negate(value) : Value(value);
}

Value round_filter(Runtime&, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "round", {"precision", "method"});
  const int64_t precision = args[0] ? whole_number(*args[0], "precision") : 0;
  const std::string how = args[1] && args[1]->is_text() ? args[1]->text() : "common";
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.is_number()) fail("round wants a number, not a {}", type_name(subject));
  if (precision < -300 || precision > 300) fail("round: the precision should be -300 to 300");
  if (how == "common" && subject.is_whole() && precision >= 0) return subject.integer();
  const double scale = std::pow(10.0, static_cast<double>(precision));
  double out = subject.number();
  if (how == "ceil") out = std::ceil(out * scale) / scale;
  else if (how == "floor") out = std::floor(out * scale) / scale;
  else if (how != "common") fail("round: the method should be common, ceil or floor");
  else if (precision > 0) std::ignore = read_float(fmt::format("{:.{}f}", out, precision), out);  // exact, as Python's round()
  else out = std::nearbyint(out * scale) / scale;
  if (how != "common" && precision == 0 && subject.is_whole()) return static_cast<double>(subject.integer());
  return subject.is_whole() ? Value(static_cast<int64_t>(out)) : Value(out);
}

Value tojson_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = args[0] && truth(*args[0]);
  style.sort_keys = args[3] && truth(*args[3]);
  if (args[1] && !args[1]->is_none()) {
    style.indented = true;
    style.item_separator = ",";
    if (args[1]->is_text()) style.indent = args[1]->text();
    else style.indent = std::string(static_cast<size_t>(std::clamp<int64_t>(whole_number(*args[1], "indent"), 0, 1000)), ' ');
  }
  if (args[2] && !args[2]->is_none()) {
    const Values both = iterate(runtime, *args[2]);
    if (both.size() != 2 || !both[0].is_text() || !both[1].is_text()) fail("tojson: separators should be two texts");
    style.item_separator = both[0].text();
    style.key_separator = both[1].text();
  }
  return runtime.make_text(to_json(runtime, subject, style));
}

constexpr std::pair<std::string_view, Filter> kFilters[] = {
    {"abs", abs_filter},
    {"capitalize", capitalize_filter},
    {"center", center_filter},
    {"e", escape_filter},
    {"escape", escape_filter},
    {"float", float_filter},
    {"format", format_filter},
    {"indent", indent_filter},
    {"int", int_filter},
    {"lower", lower_filter},
    {"replace", replace_filter},
    {"round", round_filter},
    {"safe", safe_filter},
    {"string", string_filter},
    {"title", title_filter},
    {"tojson", tojson_filter},
    {"trim", trim_filter},
    {"truncate", truncate_filter},
    {"upper", upper_filter},
    {"urlencode", urlencode_filter},
    {"wordcount", wordcount_filter},
};

}  // namespace

Filter find_text_filter(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters), [&](const auto& one) { return one.first == name; });
  return found == std::end(kFilters) ? nullptr : found->second;
}

Filter find_filter(std::string_view name) {
  const Filter found = find_text_filter(name);
  return found ? found : find_sequence_filter(name);
}

}  // namespace tq::jinja
