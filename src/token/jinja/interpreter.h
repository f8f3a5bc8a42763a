// Renders a parsed template.
#pragma once

#include <string>
#include <vector>

#include "token/jinja/ast.h"
#include "token/jinja/runtime.h"

namespace tq::jinja {

// Throws Problem. `variables` are what the template sees beside the built-in functions.
std::string render(const Body& body, Runtime& runtime, std::vector<std::pair<std::string, Value>> variables);

// Built-ins, by name; nullptr when there is none of that name.
using Filter = Value (*)(Runtime&, const Value& subject, const Arguments&);
using Test = bool (*)(Runtime&, const Value& subject, const Arguments&);
Filter find_filter(std::string_view name);
Filter find_text_filter(std::string_view name);
Filter find_sequence_filter(std::string_view name);
Test find_test(std::string_view name);
Value apply_filter(Runtime& runtime, const std::string& name, const Value& subject, const Arguments& arguments);
bool apply_test(Runtime& runtime, const std::string& name, const Value& subject, const Arguments& arguments);
void add_globals(Scope& scope);  // range, dict, namespace, raise_exception, strftime_now

}  // namespace tq::jinja
