#include "token/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "token/jinja/methods.h"
#include "token/jinja/runtime.h"
#include "token/jinja/text.h"

namespace tq::jinja {

std::string Value::why_undefined() const {
  const auto* held = std::get_if<Undefined>(&data_);
  return held && held->reason ? *held->reason : "a value is undefined";
}

int Value::depth() const {
  if (const Sequence* s = sequence()) return s->depth;
  if (const Dict* d = dict()) return d->depth;
  if (const Function* f = function()) return f->depth;
  return 0;
}

void fail_undefined(const Value& value) { throw Problem{value.why_undefined()}; }

std::vector<const Value*> bind(const Arguments& arguments, std::string_view function, std::initializer_list<const char*> names,
                               size_t required) {
  std::vector<const Value*> out(names.size(), nullptr);
  if (arguments.positional.size() > names.size()) fail("{} takes at most {} arguments", function, names.size());
  for (size_t i = 0; i < arguments.positional.size(); ++i) out[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto at = std::find_if(names.begin(), names.end(), [&](const char* known) { return name == known; });
    if (at == names.end()) fail("{} has no parameter '{}'", function, name);
    const Value*& slot = out[static_cast<size_t>(at - names.begin())];
    if (slot) fail("{} gets '{}' twice", function, name);
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!out[i]) fail("{} needs the argument '{}'", function, *(names.begin() + i));
  return out;
}

namespace {

int checked_depth(int inner) {
  if (inner >= kMaxValueDepth) fail("values nest deeper than {} levels", kMaxValueDepth);
  return inner + 1;
}

bool is_hashable(const Value& key) {
  if (key.dict()) return false;
  const Sequence* sequence = key.sequence();
  if (!sequence) return true;
  return sequence->flavour == Flavour::kTuple && std::all_of(sequence->items.begin(), sequence->items.end(), is_hashable);
}

}  // namespace

Value make_sequence(Runtime& runtime, Values items, Flavour flavour, std::string label) {
  runtime.allocate(96 + items.size() * sizeof(Value));
  int depth = 0;
  for (const Value& one : items) depth = std::max(depth, one.depth());
  return std::make_shared<Sequence>(Sequence{flavour, std::move(items), checked_depth(depth), 0, std::move(label)});
}

Value make_dict(Runtime& runtime, std::vector<std::pair<Value, Value>> entries) {
  runtime.allocate(64 + entries.size() * sizeof(entries[0]));
  int depth = 0;
  for (const auto& [key, value] : entries) depth = std::max({depth, key.depth(), value.depth()});
  return std::make_shared<const Dict>(Dict{std::move(entries), checked_depth(depth)});
}

Value method(std::string name, const Value& self, std::function<Value(Runtime&, const Arguments&)> call) {
  return std::make_shared<const Function>(Function{std::move(name), std::move(call), checked_depth(self.depth())});
}

void insert(Runtime& runtime, std::vector<std::pair<Value, Value>>& entries, Value key, Value value) {
  if (!is_hashable(key)) fail("a {} can't be a key", type_name(key));
  for (auto& entry : entries) {
    runtime.step();
    if (equal(runtime, entry.first, key)) {
      entry.second = std::move(value);
      return;
    }
  }
  runtime.allocate(sizeof(entries[0]));
  entries.emplace_back(std::move(key), std::move(value));
}

const Value* find(Runtime& runtime, const Dict& dict, const Value& key) {
  runtime.step(dict.entries.size() / 8 + 1);
  for (const auto& [known, value] : dict.entries) {
    if (known.is_text() && key.is_text() ? known.text() == key.text() : equal(runtime, known, key)) return &value;
  }
  return nullptr;
}

std::string type_name(const Value& value) {
  static constexpr const char* kNames[] = {"list", "tuple", "range", "dict_keys", "dict_values", "dict_items", "generator"};
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "NoneType";
  if (value.is_bool()) return "bool";
  if (value.is_int()) return "int";
  if (value.is_float()) return "float";
  if (value.is_text()) return value.is_markup() ? "Markup" : "str";
  if (const Sequence* sequence = value.sequence()) return kNames[static_cast<int>(sequence->flavour)];
  if (value.dict()) return "dict";
  if (value.name_space()) return "Namespace";
  return value.loop() ? "LoopContext" : "function";
}

bool truth(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_number()) return value.number() != 0;
  if (value.is_text()) return !value.text().empty();
  if (const Sequence* s = value.sequence()) return s->flavour == Flavour::kIterator || !s->items.empty();
  if (const Dict* d = value.dict()) return !d->entries.empty();
  if (const Loop* l = value.loop()) return l->length > 0;
  return true;
}

namespace {

bool equal_sequences(Runtime& runtime, const Sequence& a, const Sequence& b) {
  if (&a == &b) return true;
  if (a.flavour != b.flavour || a.flavour == Flavour::kIterator || a.flavour == Flavour::kValues) return false;
  return a.items.size() == b.items.size() &&
         std::equal(a.items.begin(), a.items.end(), b.items.begin(), [&](const Value& x, const Value& y) { return equal(runtime, x, y); });
}

bool equal_dicts(Runtime& runtime, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  return std::all_of(a.entries.begin(), a.entries.end(), [&](const auto& entry) {
    const Value* other = find(runtime, b, entry.first);
    return other && equal(runtime, entry.second, *other);
  });
}

int compare_numbers(const Value& a, const Value& b) {
  if (a.is_whole() && b.is_whole()) return a.integer() < b.integer() ? -1 : a.integer() > b.integer();
  return a.number() < b.number() ? -1 : a.number() > b.number();
}

}  // namespace

bool equal(Runtime& runtime, const Value& a, const Value& b) {
  runtime.step();
  if (a.is_number() && b.is_number()) {
    if (a.is_whole() && b.is_whole()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.is_text() && b.is_text()) {
    runtime.step(std::min(a.text().size(), b.text().size()) / 256);
    return a.text() == b.text();
  }
  if (a.sequence() && b.sequence()) return equal_sequences(runtime, *a.sequence(), *b.sequence());
  if (a.dict() && b.dict()) return equal_dicts(runtime, *a.dict(), *b.dict());
  if (a.is_undefined() || a.is_none()) return a.is_undefined() ? b.is_undefined() : b.is_none();
  return (a.name_space() && a.name_space() == b.name_space()) || (a.loop() && a.loop() == b.loop()) ||
         (a.function() && a.function() == b.function());
}

int compare(Runtime& runtime, const Value& a, const Value& b) {
  runtime.step();
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  if (a.is_number() && b.is_number()) return compare_numbers(a, b);
  if (a.is_text() && b.is_text()) {
    runtime.step(std::min(a.text().size(), b.text().size()) / 256);
    return a.text().compare(b.text());
  }
  const Sequence *x = a.sequence(), *y = b.sequence();
  if (!x || !y || x->flavour != y->flavour || (x->flavour != Flavour::kList && x->flavour != Flavour::kTuple))
    fail("a {} and a {} have no order", type_name(a), type_name(b));
  for (size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i)
    if (!equal(runtime, x->items[i], y->items[i])) return compare(runtime, x->items[i], y->items[i]);
  return x->items.size() < y->items.size() ? -1 : x->items.size() > y->items.size();
}

int64_t length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_text()) return count_chars(value.text());
  if (const Dict* d = value.dict()) return static_cast<int64_t>(d->entries.size());
  if (const Loop* l = value.loop()) return l->length;
  const Sequence* s = value.sequence();
  if (!s || s->flavour == Flavour::kIterator) fail("a {} has no length", type_name(value));
  return static_cast<int64_t>(s->items.size());
}

Values iterate(Runtime& runtime, const Value& value) {
  Values out;
  if (value.is_undefined()) return out;
  if (value.is_text()) {
    runtime.allocate(value.text().size() * (sizeof(Value) + 64));
    runtime.step(value.text().size());
    for (const std::string_view one : split_chars(value.text())) out.emplace_back(std::string(one));
  } else if (const Dict* dict = value.dict()) {
    runtime.allocate(dict->entries.size() * sizeof(Value));
    runtime.step(dict->entries.size());
    for (const auto& entry : dict->entries) out.push_back(entry.first);
  } else if (Sequence* sequence = value.sequence()) {
    runtime.allocate(sequence->items.size() * sizeof(Value));
    runtime.step(sequence->items.size());
    out.assign(sequence->items.begin() + static_cast<std::ptrdiff_t>(sequence->next), sequence->items.end());
    if (sequence->flavour == Flavour::kIterator) sequence->next = sequence->items.size();
  } else {
    fail("a {} can't be iterated over", type_name(value));
  }
  return out;
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  if (container.is_text()) {
    if (item.is_undefined()) fail_undefined(item);
    if (!item.is_text()) fail("'in' with a text wants a text on its left, not a {}", type_name(item));
    runtime.step(container.text().size() / 256);
    return find_text(container.text(), item.text()) != std::string_view::npos;
  }
  if (const Dict* dict = container.dict()) {
    if (!is_hashable(item)) fail("a {} can't be a key", type_name(item));
    return find(runtime, *dict, item) != nullptr;
  }
  if (const Sequence* sequence = container.sequence(); sequence && sequence->flavour != Flavour::kIterator)
    return std::any_of(sequence->items.begin(), sequence->items.end(), [&](const Value& one) { return equal(runtime, one, item); });
  const Values items = iterate(runtime, container);
  return std::any_of(items.begin(), items.end(), [&](const Value& one) { return equal(runtime, one, item); });
}

int64_t whole_number(const Value& value, std::string_view what) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_whole()) fail("{} should be an integer, not a {}", what, type_name(value));
  return value.integer();
}

namespace {

Value missing(const Value& object, const std::string& name) {
  return Value::undefined(fmt::format("'{} object' has no attribute '{}'", type_name(object), name));
}

// obj[key] as Python has it; nullptr where Python raises TypeError or LookupError.
bool subscript(Runtime& runtime, const Value& object, const Value& key, Value& out) {
  if (const Dict* dict = object.dict()) {
    const Value* found = is_hashable(key) ? find(runtime, *dict, key) : nullptr;
    if (found) out = *found;
    return found != nullptr;
  }
  if (!key.is_whole()) return false;
  int64_t index = key.integer();
  if (const Sequence* sequence = object.sequence()) {
    if (sequence->flavour > Flavour::kRange) return false;
    const auto size = static_cast<int64_t>(sequence->items.size());
    if (index < 0) index += size;
    if (index < 0 || index >= size) return false;
    out = sequence->items[static_cast<size_t>(index)];
    return true;
  }
  if (!object.is_text()) return false;
  const std::string& text = object.text();
  runtime.step(text.size() / 64);
  if (index < 0) index += count_chars(text);
  const size_t at = index < 0 ? text.size() : byte_offset(text, index);
  if (at >= text.size()) return false;
  out = runtime.make_text(text.substr(at, char_bytes(text, at)), object.is_markup());
  return true;
}

}  // namespace

Value attribute(Runtime& runtime, const Value& object, const std::string& name) {
  if (object.is_undefined()) fail_undefined(object);
  Value out;
  if (find_attribute(runtime, object, name, out)) return out;
  if (object.dict() && subscript(runtime, object, Value(name), out)) return out;
  return missing(object, name);
}

Value item(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is_undefined()) fail_undefined(object);
  Value out;
  if (subscript(runtime, object, key, out)) return out;
  if (key.is_text()) {
    if (find_attribute(runtime, object, key.text(), out)) return out;
    return missing(object, key.text());
  }
  return Value::undefined(fmt::format("the {} has no such element", type_name(object)));
}

}  // namespace tq::jinja
