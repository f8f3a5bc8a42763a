// Filters of sequences and dicts.
#include <algorithm>
#include <charconv>

#include "token/jinja/interpreter.h"
#include "token/jinja/print.h"
#include "token/jinja/text.h"

namespace tq::jinja {
namespace {

Value iterator(Runtime& runtime, Values items) { return make_sequence(runtime, std::move(items), Flavour::kIterator); }

// item.a.0.b, as the parameter `attribute` of filters means it; numbers are indices.
Value attribute_path(Runtime& runtime, Value value, const Value& path) {
  if (path.is_none()) return value;
  if (!path.is_text()) return item(runtime, value, path);
  for (const std::string_view part : split(path.text(), ".", -1)) {
    int64_t index = 0;
    const auto read = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = !part.empty() && part[0] != '-' && read.ec == std::errc() && read.ptr == part.data() + part.size();
    value = item(runtime, value, is_index ? Value(index) : Value(std::string(part)));
  }
  return value;
}

Value ignore_case(Runtime& runtime, const Value& value) { return value.is_text() ? runtime.make_text(to_lower(value.text())) : value; }

Value length_filter(Runtime&, const Value& subject, const Arguments& given) {
  bind(given, "length", {});
  return length(subject);
}

Value default_filter(Runtime&, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "default", {"default_value", "boolean"});
  if (!subject.is_undefined() && !(args[1] && truth(*args[1]) && !truth(subject))) return subject;
  return args[0] ? *args[0] : Value(std::string());
}

Value first_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "first", {});
  Sequence* sequence = subject.sequence();
  if (sequence && sequence->flavour == Flavour::kIterator && sequence->next < sequence->items.size())
    return sequence->items[sequence->next++];
  const Values items = iterate(runtime, subject);
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
}

Value last_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "last", {});
  if (subject.sequence() && subject.sequence()->flavour == Flavour::kIterator) fail("last wants a sequence; convert it with list first");
  const Values items = iterate(runtime, subject);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value list_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "list", {});
  return make_sequence(runtime, iterate(runtime, subject));
}

Value items_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "items", {});
  if (subject.is_undefined()) return iterator(runtime, {});
  if (!subject.dict()) fail("items wants a dict, not a {}", type_name(subject));
  Values out;
  for (const auto& [key, value] : subject.dict()->entries) out.push_back(make_sequence(runtime, {key, value}, Flavour::kTuple));
  return iterator(runtime, std::move(out));
}

Value join_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "join", {"d", "attribute"});
  const std::string separator = args[0] ? to_text(runtime, *args[0]) : "";
  Growing out(runtime);
  bool first = true;
  for (const Value& one : iterate(runtime, subject)) {
    if (!first) out.add(separator);
    first = false;
    out.add(to_text(runtime, args[1] ? attribute_path(runtime, one, *args[1]) : one));
  }
  return runtime.make_text(out.take());
}

Value map_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  Values out;
  if (!truth(subject)) return iterator(runtime, {});
  if (given.positional.empty()) {
    const auto args = bind(given, "map", {"attribute", "default"}, 1);
    for (const Value& one : iterate(runtime, subject)) {
      Value value = attribute_path(runtime, one, *args[0]);
      out.push_back(value.is_undefined() && args[1] && !args[1]->is_none() ? *args[1] : std::move(value));
    }
    return iterator(runtime, std::move(out));
  }
  if (!given.positional[0].is_text()) fail("map wants the name of a filter");
  const Arguments rest{{given.positional.begin() + 1, given.positional.end()}, given.named};
  for (const Value& one : iterate(runtime, subject)) out.push_back(apply_filter(runtime, given.positional[0].text(), one, rest));
  return iterator(runtime, std::move(out));
}

// select, reject, selectattr, rejectattr
template <bool kAttribute, bool kKeep>
Value select_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  if (!truth(subject)) return iterator(runtime, {});
  const Values& args = given.positional;
  if (kAttribute && args.empty()) fail("selectattr and rejectattr want the name of an attribute");
  const size_t at = kAttribute ? 1 : 0;
  if (args.size() > at && !args[at].is_text()) fail("select and reject want the name of a test");
  const auto holds = [&](const Value& one) {
    const Value value = kAttribute ? attribute_path(runtime, one, args[0]) : one;
    if (args.size() <= at) return truth(value);
    return apply_test(runtime, args[at].text(), value, {{args.begin() + static_cast<std::ptrdiff_t>(at) + 1, args.end()}, given.named});
  };
  Values out;
  for (const Value& one : iterate(runtime, subject))
    if (holds(one) == kKeep) out.push_back(one);
  return iterator(runtime, std::move(out));
}

// Stable, by keys; `reverse` keeps the order of equals too, as Python does.
void sort_by(Runtime& runtime, std::vector<std::pair<Value, Value>>& keyed, bool reverse) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? compare(runtime, b.first, a.first) < 0 : compare(runtime, a.first, b.first) < 0;
  });
}

Values second_of(const std::vector<std::pair<Value, Value>>& keyed) {
  Values out;
  for (const auto& one : keyed) out.push_back(one.second);
  return out;
}

Value sort_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "sort", {"reverse", "case_sensitive", "attribute"});
  const bool sensitive = args[1] && truth(*args[1]);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& one : iterate(runtime, subject)) {
    Values keys;
    if (args[2] && args[2]->is_text())
      for (const std::string_view path : split(args[2]->text(), ",", -1))
        keys.push_back(attribute_path(runtime, one, Value(std::string(path))));
    else keys.push_back(args[2] ? attribute_path(runtime, one, *args[2]) : one);
    if (!sensitive)
      for (Value& key : keys) key = ignore_case(runtime, key);
    keyed.emplace_back(make_sequence(runtime, std::move(keys)), one);
  }
  sort_by(runtime, keyed, args[0] && truth(*args[0]));
  return make_sequence(runtime, second_of(keyed));
}

Value dictsort_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "dictsort", {"case_sensitive", "by", "reverse"});
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.dict()) fail("dictsort wants a dict, not a {}", type_name(subject));
  const std::string by = args[1] ? to_text(runtime, *args[1]) : "key";
  if (by != "key" && by != "value") fail("dictsort: by should be key or value");
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : subject.dict()->entries) {
    const Value& sorted = by == "key" ? key : value;
    keyed.emplace_back(args[0] && truth(*args[0]) ? sorted : ignore_case(runtime, sorted),
                       make_sequence(runtime, {key, value}, Flavour::kTuple));
  }
  sort_by(runtime, keyed, args[2] && truth(*args[2]));
  return make_sequence(runtime, second_of(keyed));
}

Value unique_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "unique", {"case_sensitive", "attribute"});
  std::vector<std::pair<Value, Value>> seen;
  Values out;
  for (const Value& one : iterate(runtime, subject)) {
    Value key = args[1] ? attribute_path(runtime, one, *args[1]) : one;
    if (!(args[0] && truth(*args[0]))) key = ignore_case(runtime, key);
    const size_t before = seen.size();
    insert(runtime, seen, std::move(key), None{});
    if (seen.size() != before) out.push_back(one);
  }
  return iterator(runtime, std::move(out));
}

Value reverse_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  bind(given, "reverse", {});
  if (subject.is_text()) return slice(runtime, subject, None{}, None{}, int64_t{-1});
  Values items = iterate(runtime, subject);
  std::reverse(items.begin(), items.end());
  return iterator(runtime, std::move(items));
}

Value sum_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "sum", {"attribute", "start"});
  Value out = args[1] ? *args[1] : Value(int64_t{0});
  if (out.is_text()) fail("sum can't add texts; join does");
  for (const Value& one : iterate(runtime, subject))
    out = operate(runtime, Operator::kAdd, out, args[0] ? attribute_path(runtime, one, *args[0]) : one);
  return out;
}

template <bool kMax>
Value extreme_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "min and max", {"case_sensitive", "attribute"});
  Value out = Value::undefined("No aggregated item, sequence was empty."), best;
  bool any = false;
  for (const Value& one : iterate(runtime, subject)) {
    Value key = args[1] ? attribute_path(runtime, one, *args[1]) : one;
    if (!(args[0] && truth(*args[0]))) key = ignore_case(runtime, key);
    if (!any || (kMax ? compare(runtime, key, best) > 0 : compare(runtime, key, best) < 0)) best = key, out = one;
    any = true;
  }
  return out;
}

Value batch_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "batch", {"linecount", "fill_with"}, 1);
  const int64_t size = whole_number(*args[0], "linecount");
  Values out, row;
  for (const Value& one : iterate(runtime, subject)) {
    if (static_cast<int64_t>(row.size()) == size) out.push_back(make_sequence(runtime, std::exchange(row, {})));
    row.push_back(one);
  }
  if (!row.empty() && args[1] && !args[1]->is_none() && size > static_cast<int64_t>(row.size())) {
    runtime.allocate(std::min<uint64_t>(static_cast<uint64_t>(size), uint64_t{1} << 40) * sizeof(Value));
    row.resize(static_cast<size_t>(size), *args[1]);
  }
  if (!row.empty()) out.push_back(make_sequence(runtime, std::move(row)));
  return iterator(runtime, std::move(out));
}

Value slice_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "slice", {"slices", "fill_with"}, 1);
  const Values items = iterate(runtime, subject);
  const int64_t slices = whole_number(*args[0], "slices"), size = static_cast<int64_t>(items.size());
  if (slices <= 0) fail("slice: the number of slices should be positive");
  Values out;
  auto at = items.begin();
  for (int64_t i = 0; i < slices; ++i) {
    runtime.step();
    const bool extra = i < size % slices;
    const auto end = at + static_cast<std::ptrdiff_t>(size / slices + extra);
    Values part(at, end);
    at = end;
    if (!extra && args[1] && !args[1]->is_none()) part.push_back(*args[1]);
    out.push_back(make_sequence(runtime, std::move(part)));
  }
  return iterator(runtime, std::move(out));
}

Value groupby_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "groupby", {"attribute", "default", "case_sensitive"}, 1);
  const bool sensitive = args[2] && truth(*args[2]);
  const auto key_of = [&](const Value& one) {
    Value key = attribute_path(runtime, one, *args[0]);
    return key.is_undefined() && args[1] ? *args[1] : key;
  };
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& one : iterate(runtime, subject)) keyed.emplace_back(sensitive ? key_of(one) : ignore_case(runtime, key_of(one)), one);
  sort_by(runtime, keyed, false);
  Values out;
  for (size_t begin = 0, end = 0; begin < keyed.size(); begin = end) {
    Values group;
    for (end = begin; end < keyed.size() && equal(runtime, keyed[begin].first, keyed[end].first); ++end) group.push_back(keyed[end].second);
    Value key = key_of(group.front());
    out.push_back(make_sequence(runtime, {std::move(key), make_sequence(runtime, std::move(group))}, Flavour::kTuple));
    if (end == begin) ++end;  // a key that isn't equal to itself
  }
  return make_sequence(runtime, std::move(out));
}

Value attr_filter(Runtime& runtime, const Value& subject, const Arguments& given) {
  const auto args = bind(given, "attr", {"name"}, 1);
  if (subject.is_undefined()) fail_undefined(subject);
  const std::string name = to_text(runtime, *args[0]);
  return subject.dict() ? Value::undefined(fmt::format("'dict object' has no attribute '{}'", name)) : attribute(runtime, subject, name);
}

constexpr std::pair<std::string_view, Filter> kFilters[] = {
    {"attr", attr_filter},
    {"batch", batch_filter},
    {"count", length_filter},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dictsort_filter},
    {"first", first_filter},
    {"groupby", groupby_filter},
    {"items", items_filter},
    {"join", join_filter},
    {"last", last_filter},
    {"length", length_filter},
    {"list", list_filter},
    {"map", map_filter},
    {"max", extreme_filter<true>},
    {"min", extreme_filter<false>},
    {"reject", select_filter<false, false>},
    {"rejectattr", select_filter<true, false>},
    {"reverse", reverse_filter},
    {"select", select_filter<false, true>},
    {"selectattr", select_filter<true, true>},
    {"slice", slice_filter},
    {"sort", sort_filter},
    {"sum", sum_filter},
    {"unique", unique_filter},
};

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters), [&](const auto& one) { return one.first == name; });
  return found == std::end(kFilters) ? nullptr : found->second;
}

}  // namespace tq::jinja
