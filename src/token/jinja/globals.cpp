// Functions that every template sees.
#include <cmath>
#include <ctime>

#include "token/jinja/interpreter.h"
#include "token/jinja/print.h"

namespace tq::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // as the sandbox of the reference implementation

Value range(Runtime& runtime, const Arguments& given) {
  const auto args = bind(given, "range", {"start", "stop", "step"}, 1);
  const int64_t first = whole_number(*args[0], "range's bound");
  const int64_t start = args[1] ? first : 0, stop = args[1] ? whole_number(*args[1], "range's bound") : first;
  const int64_t step = args[2] ? whole_number(*args[2], "range's step") : 1;
  if (step == 0) fail("range's step can't be 0");
  Values items;
  bool over = false;
  for (int64_t at = start; !over && (step > 0 ? at < stop : at > stop); over = __builtin_add_overflow(at, step, &at)) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange) fail("a range of more than {} items", kMaxRange);
    runtime.step();
    items.emplace_back(at);
  }
  std::string label = step == 1 ? fmt::format("range({}, {})", start, stop) : fmt::format("range({}, {}, {})", start, stop, step);
  return make_sequence(runtime, std::move(items), Flavour::kRange, std::move(label));
}

// dict(mapping or pairs, name=value, …), as entries.
std::vector<std::pair<Value, Value>> dict_entries(Runtime& runtime, const Arguments& given) {
  std::vector<std::pair<Value, Value>> out;
  if (given.positional.size() > 1) fail("dict takes at most one argument without a name");
  if (!given.positional.empty()) {
    const Value& from = given.positional[0];
    if (from.dict()) out = from.dict()->entries;
    else
      for (const Value& one : iterate(runtime, from)) {
        const Values both = iterate(runtime, one);
        if (both.size() != 2) fail("dict wants pairs");
        insert(runtime, out, both[0], both[1]);
      }
  }
  for (const auto& [name, value] : given.named) insert(runtime, out, runtime.make_text(name), value);
  return out;
}

Value make_namespace(Runtime& runtime, const Arguments& given) {
  std::vector<std::pair<std::string, Value>> attributes;
  for (auto& [key, value] : dict_entries(runtime, given)) {
    if (!key.is_text()) fail("the names of a namespace should be texts");
    attributes.emplace_back(key.text(), value);
  }
  return runtime.make_namespace(std::move(attributes));
}

Value raise_exception(Runtime& runtime, const Arguments& given) {
  throw Problem{to_text(runtime, *bind(given, "raise_exception", {"message"}, 1)[0])};
}

// now in UTC; %f (microseconds) is Python's own.
Value strftime_now(Runtime& runtime, const Arguments& given) {
  const std::string format = to_text(runtime, *bind(given, "strftime_now", {"format"}, 1)[0]);
  if (format.size() > 500) fail("strftime_now: the format is longer than 500 bytes");
  if (!(std::abs(runtime.now()) < 1e12)) fail("strftime_now: the time is out of range");
  std::string python;
  for (size_t i = 0; i < format.size(); ++i) {
    const double seconds = std::floor(runtime.now());
    if (format.compare(i, 2, "%f") == 0) {
      python += fmt::format("{:06d}", static_cast<int>((runtime.now() - seconds) * 1e6));
      ++i;
    } else {
      python += format[i];
      if (format[i] == '%' && i + 1 < format.size()) python += format[++i];
    }
  }
  const auto whole = static_cast<std::time_t>(std::floor(runtime.now()));
  std::tm parts{};
  if (!gmtime_r(&whole, &parts)) fail("strftime_now: the time is out of range");
  char buffer[8192];
  const size_t size = python.empty() ? 0 : std::strftime(buffer, sizeof buffer, python.c_str(), &parts);
  return runtime.make_text(std::string(buffer, size));
}

}  // namespace

void add_globals(Scope& scope) {
  const auto add = [&](const char* name, Value (*call)(Runtime&, const Arguments&)) {
    scope.variables[name] = Value(std::make_shared<const Function>(Function{name, call}));
  };
  add("range", range);
  add("dict", [](Runtime& runtime, const Arguments& given) { return make_dict(runtime, dict_entries(runtime, given)); });
  add("namespace", make_namespace);
  add("raise_exception", raise_exception);
  add("strftime_now", strftime_now);
}

}  // namespace tq::jinja
