// The values of a template: Python's, as far as templates see them. All are immutable but namespaces, loops and iterators.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <fmt/format.h>

namespace tq::jinja {

// What goes wrong in a template. Thrown and caught within this folder's code only: ChatTemplate turns it into a Result.
// line 0: the line that is being rendered.
struct Problem {
  std::string message;
  int line = 0;
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) {
  throw Problem{fmt::format(text, std::forward<Args>(args)...)};
}

class Value;
class Runtime;
using Values = std::vector<Value>;

// Values nest at most this deep, so that recursion over them, their destruction included, is bounded.
inline constexpr int kMaxValueDepth = 100;

struct Text {
  std::string bytes;    // UTF-8
  bool markup = false;  // of the filters safe and escape: what is added to it is escaped
};

struct Undefined {
  std::shared_ptr<const std::string> reason;  // the error when it is used
};
struct None {};

struct Sequence;
struct Dict;
struct Namespace;
struct Loop;
struct Function;

class Value {
 public:
  Value() = default;  // undefined without a reason
  Value(None) : data_(None{}) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  explicit Value(std::string text, bool markup = false) : data_(std::make_shared<const Text>(Text{std::move(text), markup})) {}
  Value(std::shared_ptr<Sequence> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<const Dict> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<Namespace> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<Loop> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<const Function> value) : data_(std::move(value)) {}
  Value(const char*) = delete;
  Value(int) = delete;
  static Value undefined(std::string reason) {
    Value out;
    out.data_ = Undefined{std::make_shared<const std::string>(std::move(reason))};
    return out;
  }

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_whole() const { return is_bool() || is_int(); }
  bool is_text() const { return std::holds_alternative<std::shared_ptr<const Text>>(data_); }
  bool is_markup() const { return is_text() && std::get<std::shared_ptr<const Text>>(data_)->markup; }

  bool boolean() const { return std::get<bool>(data_); }
  int64_t integer() const { return is_bool() ? boolean() : std::get<int64_t>(data_); }                     // whole numbers only
  double number() const { return is_float() ? std::get<double>(data_) : static_cast<double>(integer()); }  // numbers only
  const std::string& text() const { return std::get<std::shared_ptr<const Text>>(data_)->bytes; }
  // nullptr when it is something else
  Sequence* sequence() const { return pointer<std::shared_ptr<Sequence>>(); }
  const Dict* dict() const { return pointer<std::shared_ptr<const Dict>>(); }
  Namespace* name_space() const { return pointer<std::shared_ptr<Namespace>>(); }
  Loop* loop() const { return pointer<std::shared_ptr<Loop>>(); }
  const Function* function() const { return pointer<std::shared_ptr<const Function>>(); }
  std::string why_undefined() const;
  int depth() const;

 private:
  template <typename Pointer>
  typename Pointer::element_type* pointer() const {
    const auto* held = std::get_if<Pointer>(&data_);
    return held ? held->get() : nullptr;
  }
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<Sequence>, std::shared_ptr<const Dict>,
               std::shared_ptr<Namespace>, std::shared_ptr<Loop>, std::shared_ptr<const Function>>
      data_;
};

enum class Flavour { kList, kTuple, kRange, kKeys, kValues, kItems, kIterator };

struct Sequence {
  Flavour flavour = Flavour::kList;
  Values items;
  int depth = 1;
  size_t next = 0;         // iterators: what was taken already
  std::string label = {};  // what str() of a range or an iterator shows
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion, keys unique
  int depth = 1;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};

// `loop` within a for; its items are gone when the loop has ended.
struct Loop {
  Values items;
  int64_t index = 0, length = 0, nesting = 0;
  bool changed_before = false;
  Value last_changed;
};

struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Function {
  std::string name;
  std::function<Value(Runtime&, const Arguments&)> call;
  int depth = 1;  // more than that of every value that `call` holds
};

// Binds arguments as a Python function with these parameters does; absent ones are nullptr. The first `required` must be there.
std::vector<const Value*> bind(const Arguments& arguments, std::string_view function, std::initializer_list<const char*> names,
                               size_t required = 0);

// Containers are made here, where their depth is limited.
Value make_sequence(Runtime& runtime, Values items, Flavour flavour = Flavour::kList, std::string label = {});
Value make_dict(Runtime& runtime, std::vector<std::pair<Value, Value>> entries);
// Python's rule: a later value replaces that of an equal key, at the key's place.
void insert(Runtime& runtime, std::vector<std::pair<Value, Value>>& entries, Value key, Value value);
const Value* find(Runtime& runtime, const Dict& dict, const Value& key);
Value method(std::string name, const Value& self, std::function<Value(Runtime&, const Arguments&)> call);

std::string type_name(const Value& value);  // Python's: "str", "dict", "NoneType", …
// Each raises the reason of an undefined value where Python's operation would.
bool truth(const Value& value);
bool equal(Runtime& runtime, const Value& a, const Value& b);
int compare(Runtime& runtime, const Value& a, const Value& b);  // <0, 0, >0
int64_t length(const Value& value);
Values iterate(Runtime& runtime, const Value& value);
bool contains(Runtime& runtime, const Value& container, const Value& item);
Value attribute(Runtime& runtime, const Value& object, const std::string& name);
Value item(Runtime& runtime, const Value& object, const Value& key);
int64_t whole_number(const Value& value, std::string_view what);  // "what should be an integer"
[[noreturn]] void fail_undefined(const Value& value);

}  // namespace tq::jinja
