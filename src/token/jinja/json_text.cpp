// json.dumps() of values, and values of JSON.
#include <algorithm>
#include <cmath>

#include "token/jinja/print.h"
#include "token/jinja/text.h"

namespace tq::jinja {
namespace {

class Writer {
 public:
  Writer(Runtime& runtime, const JsonStyle& style) : runtime_(runtime), style_(style), out_(runtime) {}

  void write(const Value& value) {
    runtime_.step();
    if (value.is_text()) {
      write_text(value.text());
    } else if (const Sequence* sequence = value.sequence();
               sequence && (sequence->flavour == Flavour::kList || sequence->flavour == Flavour::kTuple)) {
      write_list(sequence->items);
    } else if (const Dict* dict = value.dict()) {
      write_dict(*dict);
    } else if (value.is_none() || value.is_number()) {
      out_.add(scalar(value));
    } else {
      fail("tojson: a {} can't be written as JSON", type_name(value));
    }
  }
  std::string take() { return out_.take(); }

 private:
  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is_bool()) return value.boolean() ? "true" : "false";
    if (value.is_int()) return fmt::format("{}", value.integer());
    const double number = value.number();
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
    return float_text(number);
  }

  void write_text(std::string_view text) {
    std::string quoted = "\"";
    for (size_t at = 0; at < text.size(); at += char_bytes(text, at)) {
      const uint32_t c = char_at(text, at);
      if (c == '"' || c == '\\') (quoted += '\\') += static_cast<char>(c);
      else if (c == '\n') quoted += "\\n";
      else if (c == '\r') quoted += "\\r";
      else if (c == '\t') quoted += "\\t";
      else if (c == '\f') quoted += "\\f";
      else if (c == '\b') quoted += "\\b";
      else if (c < 0x20 || (style_.ensure_ascii && c >= 0x7f && c < 0x10000)) quoted += fmt::format("\\u{:04x}", c);
      else if (style_.ensure_ascii && c >= 0x10000) quoted += surrogates(c - 0x10000);
      else quoted += text.substr(at, char_bytes(text, at));
    }
    out_.add(quoted += '"');
  }
  static std::string surrogates(uint32_t c) { return fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (c >> 10), 0xdc00 + (c & 0x3ff)); }

  void new_line() {
    if (!style_.indented) return;
    out_.add("\n");
    for (int i = 0; i < level_; ++i) out_.add(style_.indent);
  }

  // One list or object; `item(i)` writes the i-th member.
  template <typename Item>
  void write_members(const char* open, const char* close, size_t count, Item item) {
    out_.add(open);
    ++level_;
    for (size_t i = 0; i < count; ++i) {
      if (i) out_.add(style_.item_separator);
      new_line();
      item(i);
    }
    --level_;
    if (count) new_line();
    out_.add(close);
  }

  void write_list(const Values& items) {
    write_members("[", "]", items.size(), [&](size_t i) { write(items[i]); });
  }

  void write_dict(const Dict& dict) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys)
      std::stable_sort(entries.begin(), entries.end(), [&](auto* a, auto* b) { return compare(runtime_, a->first, b->first) < 0; });
    write_members("{", "}", entries.size(), [&](size_t i) {
      const Value& key = entries[i]->first;
      if (!key.is_text() && !key.is_none() && !key.is_number()) fail("tojson: a {} can't be a key in JSON", type_name(key));
      write_text(key.is_text() ? key.text() : scalar(key));
      out_.add(style_.key_separator);
      write(entries[i]->second);
    });
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  Growing out_;
  int level_ = 0;
};

Value convert(Runtime& runtime, const Json& json, int depth) {
  runtime.step();
  if (depth >= kMaxValueDepth) fail("the request nests deeper than {} levels", kMaxValueDepth);
  switch (json.type()) {
    case Json::value_t::boolean: return json.get<bool>();
    case Json::value_t::number_integer: return json.get<int64_t>();
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) fail("the request has an integer beyond 63 bits");
      return json.get<int64_t>();
    case Json::value_t::number_float: return json.get<double>();
    case Json::value_t::string: return runtime.make_text(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      Values items;
      for (const Json& one : json) items.push_back(convert(runtime, one, depth + 1));
      return make_sequence(runtime, std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> entries;
      for (const auto& [key, value] : json.items()) entries.emplace_back(runtime.make_text(key), convert(runtime, value, depth + 1));
      return make_dict(runtime, std::move(entries));
    }
    default: return None{};
  }
}

}  // namespace

std::string to_json(Runtime& runtime, const Value& value, const JsonStyle& style) {
  Writer writer(runtime, style);
  writer.write(value);
  return writer.take();
}

Value from_json(Runtime& runtime, const Json& json) { return convert(runtime, json, 0); }

}  // namespace tq::jinja
