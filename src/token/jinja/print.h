// Values as text: Python's str() and repr(), and json.dumps().
#pragma once

#include <string>

#include "base/json.h"
#include "token/jinja/runtime.h"

namespace tq::jinja {

std::string float_text(double value);  // Python's repr: 1.0, 1e-05, 1e+16, nan
std::string to_text(Runtime& runtime, const Value& value);
std::string repr(Runtime& runtime, const Value& value);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool indented = false;
  std::string indent = {};  // of one level, when indented
  std::string item_separator = ", ", key_separator = ": ";
};
std::string to_json(Runtime& runtime, const Value& value, const JsonStyle& style);

// The value of a JSON document.
Value from_json(Runtime& runtime, const Json& json);

}  // namespace tq::jinja
