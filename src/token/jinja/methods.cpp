#include "token/jinja/methods.h"

#include <algorithm>

#include "token/jinja/operators.h"
#include "token/jinja/print.h"
#include "token/jinja/text.h"

namespace tq::jinja {
namespace {

// A str method: the text, and what it was called with.
using TextMethod = Value (*)(Runtime&, const Value& self, const Arguments&);

const std::string& text_of(const Value& value, std::string_view what) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_text()) fail("{} should be a text, not a {}", what, type_name(value));
  return value.text();
}

template <bool kLeft, bool kRight>
Value strip_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "strip", {"chars"});
  if (!args[0] || args[0]->is_none()) return runtime.make_text(std::string(strip(self.text(), kLeft, kRight)), self.is_markup());
  const std::string& chars = text_of(*args[0], "the characters to strip");
  runtime.step(chars.size() / 64 * self.text().size() / 64);
  return runtime.make_text(std::string(strip_chars(self.text(), chars, kLeft, kRight)), self.is_markup());
}

Value texts(Runtime& runtime, const std::vector<std::string_view>& parts) {
  Values out;
  for (const std::string_view part : parts) out.push_back(runtime.make_text(std::string(part)));
  return make_sequence(runtime, std::move(out));
}

template <bool kFromRight>
Value split_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "split", {"sep", "maxsplit"});
  const int64_t limit = args[1] ? whole_number(*args[1], "maxsplit") : -1;
  runtime.allocate(self.text().size() * sizeof(std::string_view));
  if (!args[0] || args[0]->is_none()) return texts(runtime, (kFromRight ? rsplit_space : split_space)(self.text(), limit));
  const std::string& separator = text_of(*args[0], "the separator");
  if (separator.empty()) fail("an empty separator");
  if (kFromRight) runtime.step(self.text().size() / 64 * separator.size() / 16);
  return texts(runtime, (kFromRight ? rsplit : split)(self.text(), separator, limit));
}

template <bool kEnd>
Value starts_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "startswith", {"prefix", "start", "end"}, 1);
  std::string_view text = self.text();
  if (args[1]) {
    const Value part = slice(runtime, self, *args[1], args[2] ? *args[2] : Value(None{}), None{});
    return starts_method<kEnd>(runtime, part, {{*args[0]}, {}});
  }
  const auto matches = [&](const Value& one) {
    const std::string& affix = text_of(one, "the prefix or suffix");
    return kEnd ? text.ends_with(affix) : text.starts_with(affix);
  };
  if (const Sequence* any = args[0]->sequence(); any && any->flavour == Flavour::kTuple)
    return std::any_of(any->items.begin(), any->items.end(), matches);
  return matches(*args[0]);
}

Value replace_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "replace", {"old", "new", "count"}, 2);
  const std::string &from = text_of(*args[0], "what is replaced"), &to = text_of(*args[1], "the replacement");
  int64_t count = args[2] ? whole_number(*args[2], "count") : -1;
  const std::string& text = self.text();
  Growing out(runtime);
  size_t at = 0;
  for (; count != 0 && (count < 0 || count > 0); --count) {
    if (from.empty()) {
      if (at > text.size()) break;
      out.add(to);
      if (at == text.size()) break;
      const size_t bytes = char_bytes(text, at);
      out.add(std::string_view(text).substr(at, bytes));
      at += bytes;
      runtime.step();
      continue;
    }
    const size_t found = find_text(text, from, at);
    if (found == std::string_view::npos) break;
    out.add(std::string_view(text).substr(at, found - at));
    out.add(to);
    at = found + from.size();
  }
  out.add(std::string_view(text).substr(std::min(at, text.size())));
  return runtime.make_text(out.take(), self.is_markup());
}

template <std::string (*kMap)(std::string_view)>
Value map_method(Runtime& runtime, const Value& self, const Arguments& given) {
  bind(given, "the method", {});
  return runtime.make_text(kMap(self.text()), self.is_markup());
}

Value join_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "join", {"iterable"}, 1);
  Growing out(runtime);
  bool first = true;
  for (const Value& one : iterate(runtime, *args[0])) {
    if (!first) out.add(self.text());
    first = false;
    out.add(text_of(one, "what is joined"));
  }
  return runtime.make_text(out.take(), self.is_markup());
}

// find, rfind, index, rindex; positions are characters.
template <bool kLast, bool kMust>
Value find_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "find", {"sub", "start", "end"}, 1);
  const std::string& needle = text_of(*args[0], "what is sought");
  std::string_view text = self.text();
  int64_t offset = 0;
  Value part;
  if (args[1]) {
    const int64_t size = count_chars(text);
    offset = args[1]->is_none() ? 0 : whole_number(*args[1], "start");
    if (offset < 0) offset = std::max<int64_t>(offset + size, 0);
    part = slice(runtime, self, offset, args[2] ? *args[2] : Value(None{}), None{});
    text = part.text();
    if (offset > size) return int64_t{-1};
  }
  runtime.step(text.size() / 256 + (kLast ? text.size() / 64 * needle.size() / 16 : 0));
  const size_t at = kLast ? text.rfind(needle) : find_text(text, needle);
  if (at != std::string_view::npos) return offset + count_chars(text.substr(0, at));
  if (kMust) fail("substring not found");
  return int64_t{-1};
}

Value count_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "count", {"sub"}, 1);
  const std::string& needle = text_of(*args[0], "what is counted");
  if (needle.empty()) return count_chars(self.text()) + 1;
  runtime.step(self.text().size() / 64);
  int64_t count = 0;
  for (size_t at = find_text(self.text(), needle); at != std::string_view::npos; at = find_text(self.text(), needle, at + needle.size()))
    ++count;
  return count;
}

template <bool (*kIs)(uint32_t)>
Value all_method(Runtime& runtime, const Value& self, const Arguments& given) {
  bind(given, "the method", {});
  runtime.step(self.text().size() / 64);
  for (size_t at = 0; at < self.text().size(); at += char_bytes(self.text(), at))
    if (!kIs(char_at(self.text(), at))) return false;
  return !self.text().empty();
}

// isupper, islower: at least one cased character, and none of the other case.
template <bool (*kIs)(uint32_t), bool (*kOther)(uint32_t)>
Value case_method(Runtime& runtime, const Value& self, const Arguments& given) {
  bind(given, "the method", {});
  runtime.step(self.text().size() / 64);
  bool found = false;
  for (size_t at = 0; at < self.text().size(); at += char_bytes(self.text(), at)) {
    const uint32_t c = char_at(self.text(), at);
    if (kOther(c)) return false;
    found = found || kIs(c);
  }
  return found;
}

// ljust, rjust, center; kLeft of four parts of the padding go to the left.
template <int kLeft>
Value pad_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "the method", {"width", "fillchar"}, 1);
  const std::string fill = args[1] ? text_of(*args[1], "fillchar") : " ";
  const int64_t width = whole_number(*args[0], "width"), missing = std::max<int64_t>(width - count_chars(self.text()), 0);
  if (count_chars(fill) != 1) fail("fillchar should be one character");
  runtime.allocate(static_cast<uint64_t>(missing) * fill.size());
  const int64_t left = kLeft == 2 ? missing / 2 + (missing & width & 1) : kLeft == 4 ? missing : 0;
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self.text();
  for (int64_t i = left; i < missing; ++i) out += fill;
  return runtime.make_text(std::move(out), self.is_markup());
}

Value zfill_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "zfill", {"width"}, 1);
  const int64_t missing = std::max<int64_t>(whole_number(*args[0], "width") - count_chars(self.text()), 0);
  runtime.allocate(static_cast<uint64_t>(missing));
  const size_t sign = !self.text().empty() && (self.text()[0] == '-' || self.text()[0] == '+');
  return runtime.make_text(self.text().substr(0, sign) + std::string(static_cast<size_t>(missing), '0') + self.text().substr(sign));
}

template <bool kLast>
Value partition_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "partition", {"sep"}, 1);
  const std::string& separator = text_of(*args[0], "the separator");
  if (separator.empty()) fail("an empty separator");
  const std::string& text = self.text();
  if (kLast) runtime.step(text.size() / 64 * separator.size() / 16);
  const size_t at = kLast ? text.rfind(separator) : find_text(text, separator);
  const auto make = [&](std::string a, std::string b, std::string c) {
    Values parts;
    for (std::string* part : {&a, &b, &c}) parts.push_back(runtime.make_text(std::move(*part)));
    return make_sequence(runtime, std::move(parts), Flavour::kTuple);
  };
  if (at == std::string::npos) return kLast ? make("", "", text) : make(text, "", "");
  return make(text.substr(0, at), separator, text.substr(at + separator.size()));
}

template <bool kSuffix>
Value remove_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const std::string& affix = text_of(*bind(given, "removeprefix", {"affix"}, 1)[0], "the prefix or suffix");
  std::string_view text = self.text();
  if (kSuffix && text.ends_with(affix)) text.remove_suffix(affix.size());
  else if (!kSuffix && text.starts_with(affix)) text.remove_prefix(affix.size());
  return runtime.make_text(std::string(text), self.is_markup());
}

Value lines_method(Runtime& runtime, const Value& self, const Arguments& given) {
  const auto args = bind(given, "splitlines", {"keepends"});
  runtime.allocate(self.text().size() * sizeof(std::string_view));
  return texts(runtime, split_lines(self.text(), args[0] && truth(*args[0])));
}

Value format_method(Runtime& runtime, const Value& self, const Arguments& given) {
  return runtime.make_text(format_braces(runtime, self.text(), given), self.is_markup());
}

bool is_letter_or_digit(uint32_t c) { return is_letter(c) || is_digit(c); }

constexpr std::pair<std::string_view, TextMethod> kTextMethods[] = {
    {"strip", strip_method<true, true>},
    {"lstrip", strip_method<true, false>},
    {"rstrip", strip_method<false, true>},
    {"split", split_method<false>},
    {"rsplit", split_method<true>},
    {"splitlines", lines_method},
    {"startswith", starts_method<false>},
    {"endswith", starts_method<true>},
    {"replace", replace_method},
    {"upper", map_method<to_upper>},
    {"lower", map_method<to_lower>},
    {"casefold", map_method<to_lower>},
    {"title", map_method<title>},
    {"capitalize", map_method<capitalize>},
    {"swapcase", map_method<swap_case>},
    {"join", join_method},
    {"format", format_method},
    {"find", find_method<false, false>},
    {"rfind", find_method<true, false>},
    {"index", find_method<false, true>},
    {"rindex", find_method<true, true>},
    {"count", count_method},
    {"isdigit", all_method<is_digit>},
    {"isdecimal", all_method<is_digit>},
    {"isnumeric", all_method<is_digit>},
    {"isalpha", all_method<is_letter>},
    {"isalnum", all_method<is_letter_or_digit>},
    {"isspace", all_method<is_space>},
    {"isupper", case_method<is_upper, is_lower>},
    {"islower", case_method<is_lower, is_upper>},
    {"ljust", pad_method<0>},
    {"center", pad_method<2>},
    {"rjust", pad_method<4>},
    {"zfill", zfill_method},
    {"partition", partition_method<false>},
    {"rpartition", partition_method<true>},
    {"removeprefix", remove_method<false>},
    {"removesuffix", remove_method<true>},
};

Value pairs(Runtime& runtime, const Dict& dict, Flavour flavour) {
  Values out;
  runtime.step(dict.entries.size());
  for (const auto& [key, value] : dict.entries) {
    if (flavour == Flavour::kKeys) out.push_back(key);
    else if (flavour == Flavour::kValues) out.push_back(value);
    else out.push_back(make_sequence(runtime, {key, value}, Flavour::kTuple));
  }
  return make_sequence(runtime, std::move(out), flavour);
}

bool dict_method(const Value& object, const std::string& name, Value& out) {
  if (name == "get") {
    out = method(name, object, [object](Runtime& runtime, const Arguments& given) {
      const auto args = bind(given, "get", {"key", "default"}, 1);
      const Value* found = find(runtime, *object.dict(), *args[0]);
      return found ? *found : args[1] ? *args[1] : Value(None{});
    });
  } else if (name == "copy") {
    out = method(name, object, [object](Runtime&, const Arguments&) { return object; });
  } else if (name == "items" || name == "keys" || name == "values") {
    const Flavour flavour = name == "items" ? Flavour::kItems : name == "keys" ? Flavour::kKeys : Flavour::kValues;
    out = method(name, object, [object, flavour](Runtime& runtime, const Arguments& given) {
      bind(given, "the method", {});
      return pairs(runtime, *object.dict(), flavour);
    });
  } else {
    return false;
  }
  return true;
}

bool list_method(const Value& object, const std::string& name, Value& out) {
  if (name != "index" && name != "count" && !(name == "copy" && object.sequence()->flavour == Flavour::kList)) return false;
  out = method(name, object, [object, name](Runtime& runtime, const Arguments& given) -> Value {
    if (name == "copy") return object;
    const Values& items = object.sequence()->items;
    const Value& wanted = *bind(given, name, {"value"}, 1)[0];
    const auto is_it = [&](const Value& one) { return equal(runtime, one, wanted); };
    if (name == "count") return static_cast<int64_t>(std::count_if(items.begin(), items.end(), is_it));
    const auto at = std::find_if(items.begin(), items.end(), is_it);
    if (at == items.end()) fail("the value is not in the {}", type_name(object));
    return static_cast<int64_t>(at - items.begin());
  });
  return true;
}

bool loop_attribute(const Value& object, const std::string& name, Value& out) {
  const Loop& loop = *object.loop();
  const auto neighbour = [&](int64_t at, const char* which) {
    const bool there = at >= 0 && at < static_cast<int64_t>(loop.items.size());
    return there ? loop.items[static_cast<size_t>(at)] : Value::undefined(fmt::format("there is no {} item", which));
  };
  if (name == "index") out = loop.index + 1;
  else if (name == "index0") out = loop.index;
  else if (name == "revindex") out = loop.length - loop.index;
  else if (name == "revindex0") out = loop.length - loop.index - 1;
  else if (name == "first") out = loop.index == 0;
  else if (name == "last") out = loop.index + 1 == loop.length;
  else if (name == "length") out = loop.length;
  else if (name == "depth") out = loop.nesting + 1;
  else if (name == "depth0") out = loop.nesting;
  else if (name == "previtem") out = neighbour(loop.index - 1, "previous");
  else if (name == "nextitem") out = neighbour(loop.index + 1, "next");
  else if (name == "cycle")
    out = method(name, object, [object](Runtime&, const Arguments& given) {
      if (given.positional.empty()) fail("no items for cycling given");
      return given.positional[static_cast<size_t>(object.loop()->index) % given.positional.size()];
    });
  else if (name == "changed")
    out = method(name, object, [object](Runtime& runtime, const Arguments& given) -> Value {
      Value now = make_sequence(runtime, given.positional, Flavour::kTuple);
      Loop& state = *object.loop();
      const bool changed = !state.changed_before || !equal(runtime, state.last_changed, now);
      state.changed_before = true;
      if (changed && !state.items.empty()) state.last_changed = std::move(now);
      return changed;
    });
  else return false;
  return true;
}

bool changes_its_object(const Value& object, std::string_view name) {
  const auto is_any = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (object.dict()) return is_any({"clear", "pop", "popitem", "setdefault", "update"});
  const Sequence* list = object.sequence();
  return list && list->flavour == Flavour::kList && is_any({"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"});
}

}  // namespace

bool find_attribute(Runtime& runtime, const Value& object, const std::string& name, Value& out) {
  runtime.step();
  if (name.starts_with("__") || changes_its_object(object, name)) {
    out = Value::undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object)));
    return true;
  }
  if (object.is_text()) {
    const auto* found = std::find_if(std::begin(kTextMethods), std::end(kTextMethods), [&](const auto& one) { return one.first == name; });
    if (found == std::end(kTextMethods)) return false;
    out =
        method(name, object, [object, call = found->second](Runtime& inner, const Arguments& given) { return call(inner, object, given); });
    return true;
  }
  if (object.dict()) return dict_method(object, name, out);
  if (object.sequence() && object.sequence()->flavour <= Flavour::kRange) return list_method(object, name, out);
  if (object.loop()) return loop_attribute(object, name, out);
  if (const Namespace* space = object.name_space())
    for (const auto& [known, value] : space->attributes)
      if (known == name) {
        out = value;
        return true;
      }
  if (object.function() && name == "name") {
    out = runtime.make_text(object.function()->name);
    return true;
  }
  return false;
}

}  // namespace tq::jinja
