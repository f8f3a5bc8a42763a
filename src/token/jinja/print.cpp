#include "token/jinja/print.h"

#include <charconv>
#include <cmath>

#include "token/jinja/text.h"

namespace tq::jinja {
namespace {

void append_repr(Growing& out, Runtime& runtime, const Value& value, int depth);

void append_quoted(Growing& out, std::string_view text) {
  const bool single = text.find('\'') != std::string_view::npos, twice = text.find('"') != std::string_view::npos;
  const char quote = single && !twice ? '"' : '\'';
  std::string quoted(1, quote);
  for (size_t at = 0; at < text.size(); at += char_bytes(text, at)) {
    const uint32_t c = char_at(text, at);
    if (c == static_cast<uint32_t>(quote) || c == '\\') (quoted += '\\') += static_cast<char>(c);
    else if (c == '\n') quoted += "\\n";
    else if (c == '\r') quoted += "\\r";
    else if (c == '\t') quoted += "\\t";
    else if (is_printable(c)) quoted += text.substr(at, char_bytes(text, at));
    else if (c < 0x100) quoted += fmt::format("\\x{:02x}", c);
    else if (c < 0x10000) quoted += fmt::format("\\u{:04x}", c);
    else quoted += fmt::format("\\U{:08x}", c);
  }
  out.add(quoted += quote);
}

void append_items(Growing& out, Runtime& runtime, const Values& items, int depth) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i) out.add(", ");
    append_repr(out, runtime, items[i], depth);
  }
}

void append_sequence(Growing& out, Runtime& runtime, const Sequence& sequence, int depth) {
  const auto wrapped = [&](std::string_view open, std::string_view close) {
    out.add(open);
    append_items(out, runtime, sequence.items, depth);
    out.add(close);
  };
  switch (sequence.flavour) {
    case Flavour::kList: return wrapped("[", "]");
    case Flavour::kTuple: return wrapped("(", sequence.items.size() == 1 ? ",)" : ")");
    case Flavour::kKeys: return wrapped("dict_keys([", "])");
    case Flavour::kValues: return wrapped("dict_values([", "])");
    case Flavour::kItems: return wrapped("dict_items([", "])");
    case Flavour::kRange: return out.add(sequence.label);
    case Flavour::kIterator: return out.add("<generator object>");
  }
}

// {'key': value, …}; of a namespace: its attributes.
template <typename Entries, typename Key>
void append_entries(Growing& out, Runtime& runtime, const Entries& entries, int depth, const Key& key_value) {
  out.add("{");
  bool first = true;
  for (const auto& [key, value] : entries) {
    if (!first) out.add(", ");
    first = false;
    append_repr(out, runtime, key_value(key), depth);
    out.add(": ");
    append_repr(out, runtime, value, depth);
  }
  out.add("}");
}

void append_repr(Growing& out, Runtime& runtime, const Value& value, int depth) {
  runtime.step();
  if (depth > 2 * kMaxValueDepth) fail("a value that holds itself can't be printed");
  if (value.is_text()) {
    if (value.is_markup()) out.add("Markup(");
    append_quoted(out, value.text());
    if (value.is_markup()) out.add(")");
  } else if (const Sequence* sequence = value.sequence()) {
    append_sequence(out, runtime, *sequence, depth + 1);
  } else if (const Dict* dict = value.dict()) {
    append_entries(out, runtime, dict->entries, depth + 1, [](const Value& key) { return key; });
  } else if (const Namespace* space = value.name_space()) {
    out.add("<Namespace ");
    append_entries(out, runtime, space->attributes, depth + 1, [](const std::string& key) { return Value(key); });
    out.add(">");
  } else if (value.is_undefined()) {
    out.add("Undefined");
  } else {
    out.add(to_text(runtime, value));
  }
}

}  // namespace

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string digits(buffer, end);
  const size_t e = digits.find('e');
  const int exponent = std::stoi(digits.substr(e + 1));
  if (exponent < -4 || exponent >= 16) return digits;  // to_chars writes two digits of exponent at least, as Python does
  digits.resize(e);
  const std::string sign = digits[0] == '-' ? "-" : "";
  digits.erase(0, sign.size());
  if (digits.size() > 1) digits.erase(1, 1);
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string to_text(Runtime& runtime, const Value& value) {
  if (value.is_text()) return value.text();
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (value.is_bool()) return value.boolean() ? "True" : "False";
  if (value.is_int()) return fmt::format("{}", value.integer());
  if (value.is_float()) return float_text(value.number());
  if (const Function* function = value.function()) return fmt::format("<function {}>", function->name);
  if (const Loop* loop = value.loop()) return fmt::format("<LoopContext {}/{}>", loop->index + 1, loop->length);
  Growing out(runtime);
  append_repr(out, runtime, value, 0);
  return out.take();
}

std::string repr(Runtime& runtime, const Value& value) {
  Growing out(runtime);
  append_repr(out, runtime, value, 0);
  return out.take();
}

}  // namespace tq::jinja
