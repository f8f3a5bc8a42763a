// What one rendering uses: its budget, its output, and what must be taken apart at its end.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "token/jinja/value.h"

namespace tq::jinja {

// Bounds of one rendering; more than any template for chats needs.
struct Limits {
  uint64_t steps = 20'000'000;           // about one per node evaluated or item visited
  uint64_t bytes = uint64_t{512} << 20;  // allocated in all, including what is freed meanwhile
  // Of statements, expressions, macro calls and filters within each other, together: what the stack is used for. With a sanitizer one takes
  // some KiB. Real templates stay below 200.
  int depth = 500;
};

// The variables of a block. A scope sees its parents' variables; `set` writes to the innermost one.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::unordered_map<std::string, Value> variables = {};
  bool kept = false;  // a macro holds it
};
using ScopePtr = std::shared_ptr<Scope>;

class Runtime {
 public:
  Runtime(const Limits& limits, double now) : limits_(limits), now_(now) {}
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  ~Runtime();  // breaks the cycles that namespaces and macros can form

  void step(uint64_t count = 1) {
    if (count > limits_.steps - steps_) fail("the template takes more than {} steps", limits_.steps);
    steps_ += count;
  }
  void allocate(uint64_t bytes) {
    if (bytes > limits_.bytes - bytes_) fail("the template makes more than {} MiB of text and values", limits_.bytes >> 20);
    bytes_ += bytes;
  }
  Value make_text(std::string text, bool markup = false) {
    allocate(text.size() + 64);
    return Value(std::move(text), markup);
  }
  double now() const { return now_; }  // seconds since the epoch
  int line() const { return line_; }
  void set_line(int line) { line_ = line; }

  Value make_namespace(std::vector<std::pair<std::string, Value>> attributes);
  void keep(const ScopePtr& scope);  // a macro will hold it

  // One level, for as long as it lives.
  class Nested {
   public:
    explicit Nested(Runtime& runtime) : runtime_(runtime) {
      if (runtime_.depth_ >= runtime_.limits_.depth) fail("the template nests deeper than {} levels", runtime_.limits_.depth);
      ++runtime_.depth_;
    }
    ~Nested() { --runtime_.depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    Runtime& runtime_;
  };

 private:
  Limits limits_;
  double now_;
  uint64_t steps_ = 0, bytes_ = 0;
  int line_ = 0, depth_ = 0;
  std::vector<ScopePtr> scopes_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

// A growing text whose size is paid for before it grows.
class Growing {
 public:
  explicit Growing(Runtime& runtime) : runtime_(runtime) {}
  void add(std::string_view text) {
    runtime_.allocate(text.size());
    text_.append(text);
  }
  std::string take() { return std::move(text_); }
  const std::string& text() const { return text_; }

 private:
  Runtime& runtime_;
  std::string text_;
};

}  // namespace tq::jinja
