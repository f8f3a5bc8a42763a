// Attributes and methods of values.
#pragma once

#include "token/jinja/runtime.h"

namespace tq::jinja {

// The attribute as Python's getattr has it, without the entries of a dict; false when there is none. What changes its object
// (list.append, dict.update) is refused, as by the sandbox that templates are written for.
bool find_attribute(Runtime& runtime, const Value& object, const std::string& name, Value& out);

}  // namespace tq::jinja
