// Python's arithmetic, and Python's two ways of formatting.
#pragma once

#include "token/jinja/runtime.h"

namespace tq::jinja {

enum class Operator { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };

Value operate(Runtime& runtime, Operator op, const Value& a, const Value& b);
Value negate(const Value& value);
// items[start:stop:step]; absent parts are None.
Value slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop, const Value& step);

// text % values, and text.format(…).
std::string format_percent(Runtime& runtime, std::string_view text, const Value& values);
std::string format_braces(Runtime& runtime, std::string_view text, const Arguments& arguments);

}  // namespace tq::jinja
