// What may follow `is`.
#include <algorithm>

#include "token/jinja/interpreter.h"
#include "token/jinja/text.h"

namespace tq::jinja {
namespace {

using A = const Arguments&;
using V = const Value&;

const Value& only(A given) { return *bind(given, "the test", {"other"}, 1)[0]; }
int64_t remainder_of(V value, int64_t by) {
  if (by == 0) fail("division by zero");
  return by == -1 ? 0 : whole_number(value, "what the test is applied to") % by;
}
bool is_cased(V value, bool upper) {
  if (!value.is_text()) return false;
  bool found = false;
  for (size_t at = 0; at < value.text().size(); at += char_bytes(value.text(), at)) {
    const uint32_t c = char_at(value.text(), at);
    if (upper ? is_lower(c) : is_upper(c)) return false;
    found = found || is_upper(c) || is_lower(c);
  }
  return found;
}
bool same(Runtime& r, V a, V b) {
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  return type_name(a) == type_name(b) && !a.sequence() && !a.dict() && equal(r, a, b);
}
bool is_sequence(V v) { return v.is_undefined() || v.is_text() || v.dict() || (v.sequence() && v.sequence()->flavour <= Flavour::kRange); }

constexpr std::pair<std::string_view, Test> kTests[] = {
    {"defined", [](Runtime&, V v, A) { return !v.is_undefined(); }},
    {"undefined", [](Runtime&, V v, A) { return v.is_undefined(); }},
    {"none", [](Runtime&, V v, A) { return v.is_none(); }},
    {"boolean", [](Runtime&, V v, A) { return v.is_bool(); }},
    {"true", [](Runtime&, V v, A) { return v.is_bool() && v.boolean(); }},
    {"false", [](Runtime&, V v, A) { return v.is_bool() && !v.boolean(); }},
    {"integer", [](Runtime&, V v, A) { return v.is_int(); }},
    {"float", [](Runtime&, V v, A) { return v.is_float(); }},
    {"number", [](Runtime&, V v, A) { return v.is_number(); }},
    {"string", [](Runtime&, V v, A) { return v.is_text(); }},
    {"mapping", [](Runtime&, V v, A) { return v.dict() != nullptr; }},
    {"sequence", [](Runtime&, V v, A) { return is_sequence(v); }},
    {"iterable", [](Runtime&, V v, A) { return is_sequence(v) || v.sequence() || v.loop(); }},
    {"callable", [](Runtime&, V v, A) { return v.is_undefined() || v.function() || v.loop(); }},
    {"sameas", [](Runtime& r, V v, A a) { return same(r, v, only(a)); }},
    {"escaped", [](Runtime&, V v, A) { return v.is_markup(); }},
    {"odd", [](Runtime&, V v, A) { return remainder_of(v, 2) != 0; }},
    {"even", [](Runtime&, V v, A) { return remainder_of(v, 2) == 0; }},
    {"divisibleby", [](Runtime&, V v, A a) { return remainder_of(v, whole_number(only(a), "a divisor")) == 0; }},
    {"lower", [](Runtime&, V v, A) { return is_cased(v, false); }},
    {"upper", [](Runtime&, V v, A) { return is_cased(v, true); }},
    {"in", [](Runtime& r, V v, A a) { return contains(r, only(a), v); }},
    {"filter", [](Runtime&, V v, A) { return v.is_text() && find_filter(v.text()); }},
    {"test", [](Runtime&, V v, A) { return v.is_text() && find_test(v.text()); }},
    {"==", [](Runtime& r, V v, A a) { return equal(r, v, only(a)); }},
    {"eq", [](Runtime& r, V v, A a) { return equal(r, v, only(a)); }},
    {"equalto", [](Runtime& r, V v, A a) { return equal(r, v, only(a)); }},
    {"!=", [](Runtime& r, V v, A a) { return !equal(r, v, only(a)); }},
    {"ne", [](Runtime& r, V v, A a) { return !equal(r, v, only(a)); }},
    {"<", [](Runtime& r, V v, A a) { return compare(r, v, only(a)) < 0; }},
    {"lt", [](Runtime& r, V v, A a) { return compare(r, v, only(a)) < 0; }},
    {"lessthan", [](Runtime& r, V v, A a) { return compare(r, v, only(a)) < 0; }},
    {"<=", [](Runtime& r, V v, A a) { return compare(r, v, only(a)) <= 0; }},
    {"le", [](Runtime& r, V v, A a) { return compare(r, v, only(a)) <= 0; }},
    {">", [](Runtime& r, V v, A a) { return compare(r, v, only(a)) > 0; }},
    {"gt", [](Runtime& r, V v, A a) { return compare(r, v, only(a)) > 0; }},
    {"greaterthan", [](Runtime& r, V v, A a) { return compare(r, v, only(a)) > 0; }},
    {">=", [](Runtime& r, V v, A a) { return compare(r, v, only(a)) >= 0; }},
    {"ge", [](Runtime& r, V v, A a) { return compare(r, v, only(a)) >= 0; }},
};

}  // namespace

Test find_test(std::string_view name) {
  const auto* found = std::find_if(std::begin(kTests), std::end(kTests), [&](const auto& one) { return one.first == name; });
  return found == std::end(kTests) ? nullptr : found->second;
}

}  // namespace tq::jinja
