#include "token/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "token/jinja/print.h"
#include "token/jinja/text.h"

namespace tq::jinja {
namespace {

constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "**"};

[[noreturn]] void fail_types(Operator op, const Value& a, const Value& b) {
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  fail("a {} and a {} can't be combined with '{}'", type_name(a), type_name(b), kSymbols[static_cast<int>(op)]);
}

Value checked(bool overflows, int64_t value) {
  if (overflows) fail("an integer beyond 63 bits");
  return value;
}

Value power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) fail("0 can't be raised to a negative power");
    return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  }
  int64_t out = 1;
  bool overflows = false;
  if (base == 0 || base == 1) return exponent == 0 ? int64_t{1} : base;
  if (base == -1) return exponent % 2 ? int64_t{-1} : int64_t{1};
  for (; exponent > 0 && !overflows; --exponent) overflows = __builtin_mul_overflow(out, base, &out);
  return checked(overflows, out);
}

Value operate_whole(Operator op, int64_t a, int64_t b) {
  int64_t out = 0;
  switch (op) {
    case Operator::kAdd: return checked(__builtin_add_overflow(a, b, &out), out);
    case Operator::kSubtract: return checked(__builtin_sub_overflow(a, b, &out), out);
    case Operator::kMultiply: return checked(__builtin_mul_overflow(a, b, &out), out);
    case Operator::kPower: return power(a, b);
    default: break;
  }
  if (b == 0) fail("division by zero");
  if (op == Operator::kDivide) return static_cast<double>(a) / static_cast<double>(b);
  if (b == -1) return op == Operator::kModulo ? Value(int64_t{0}) : checked(__builtin_sub_overflow(int64_t{0}, a, &out), out);
  const int64_t quotient = a / b - (a % b != 0 && (a < 0) != (b < 0));
  return op == Operator::kModulo ? a - quotient * b : quotient;
}

Value operate_float(Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd: return a + b;
    case Operator::kSubtract: return a - b;
    case Operator::kMultiply: return a * b;
    case Operator::kPower: {
      const double out = std::pow(a, b);
      if (!std::isfinite(out) && std::isfinite(a) && std::isfinite(b)) fail("'**' gives no finite number");
      if (std::isnan(out) && !std::isnan(a) && !std::isnan(b)) fail("'**' gives no real number");
      return out;
    }
    default: break;
  }
  if (b == 0) fail("division by zero");
  if (op == Operator::kDivide) return a / b;
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (op == Operator::kModulo) return remainder == 0 ? std::copysign(0.0, b) : remainder;
  return std::floor((a - remainder) / b + 0.5);
}

Value join_texts(Runtime& runtime, const Value& a, const Value& b) {
  const bool markup = a.is_markup() || b.is_markup();
  const auto part = [&](const Value& one) { return markup && !one.is_markup() ? escape_html(one.text()) : one.text(); };
  runtime.allocate(a.text().size() + b.text().size());
  return runtime.make_text(part(a) + part(b), markup);
}

Value repeat(Runtime& runtime, const Value& value, int64_t count) {
  const auto times = static_cast<uint64_t>(std::max<int64_t>(count, 0));
  const auto charge = [&](size_t size, size_t bytes) {
    if (size && times > (uint64_t{1} << 40) / size) fail("a repetition is too long");
    runtime.allocate(times * size * bytes);
  };
  if (value.is_text()) {
    charge(value.text().size(), 1);
    std::string out;
    out.reserve(value.text().size() * times);
    for (uint64_t i = 0; i < times && !value.text().empty(); ++i) out += value.text();
    return runtime.make_text(std::move(out), value.is_markup());
  }
  const Sequence& sequence = *value.sequence();
  charge(sequence.items.size(), sizeof(Value));
  Values out;
  for (uint64_t i = 0; i < times && !sequence.items.empty(); ++i) out.insert(out.end(), sequence.items.begin(), sequence.items.end());
  return make_sequence(runtime, std::move(out), sequence.flavour);
}

bool is_repeatable(const Value& value) {
  const Sequence* sequence = value.sequence();
  return value.is_text() || (sequence && sequence->flavour <= Flavour::kTuple);
}

}  // namespace

Value operate(Runtime& runtime, Operator op, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_whole() && b.is_whole()) return operate_whole(op, a.integer(), b.integer());
    return operate_float(op, a.number(), b.number());
  }
  if (op == Operator::kAdd && a.is_text() && b.is_text()) return join_texts(runtime, a, b);
  if (op == Operator::kAdd && a.sequence() && b.sequence() && a.sequence()->flavour == b.sequence()->flavour && is_repeatable(a)) {
    runtime.allocate((a.sequence()->items.size() + b.sequence()->items.size()) * sizeof(Value));
    Values items = a.sequence()->items;
    items.insert(items.end(), b.sequence()->items.begin(), b.sequence()->items.end());
    return make_sequence(runtime, std::move(items), a.sequence()->flavour);
  }
  if (op == Operator::kMultiply && is_repeatable(a) && b.is_whole()) return repeat(runtime, a, b.integer());
  if (op == Operator::kMultiply && is_repeatable(b) && a.is_whole()) return repeat(runtime, b, a.integer());
  if (op == Operator::kModulo && a.is_text()) return runtime.make_text(format_percent(runtime, a.text(), b), a.is_markup());
  fail_types(op, a, b);
}

Value negate(const Value& value) {
  if (value.is_float()) return -value.number();
  return operate_whole(Operator::kSubtract, 0, whole_number(value, "what '-' negates"));
}

namespace {

struct Bounds {
  int64_t start, step, count;
};

// As Python's slice.indices().
Bounds slice_bounds(const Value& start, const Value& stop, const Value& step_value, int64_t size) {
  const int64_t step = step_value.is_none() ? 1 : whole_number(step_value, "a slice's step");
  if (step == 0) fail("a slice's step can't be 0");
  const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? size - 1 : size;
  const auto place = [&](const Value& value, int64_t otherwise) {
    if (value.is_none()) return otherwise;
    int64_t at = whole_number(value, "a slice's bound");
    if (at < 0) at += size;
    return std::clamp(at, low, high);
  };
  const int64_t from = place(start, step < 0 ? high : low), to = place(stop, step < 0 ? low : high);
  const int64_t distance = step < 0 ? from - to : to - from;
  const uint64_t stride = step < 0 ? uint64_t{0} - static_cast<uint64_t>(step) : static_cast<uint64_t>(step);
  return {from, step, distance <= 0 ? 0 : static_cast<int64_t>((static_cast<uint64_t>(distance) - 1) / stride + 1)};
}

template <typename Visit>
void visit_slice(const Bounds& bounds, Visit visit) {
  int64_t at = bounds.start;
  for (int64_t i = 0; i < bounds.count; ++i) {
    visit(static_cast<size_t>(at));
    if (i + 1 < bounds.count) at += bounds.step;
  }
}

}  // namespace

Value slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is_text()) {
    runtime.allocate(object.text().size() * sizeof(std::string_view));
    const auto chars = split_chars(object.text());
    std::string out;
    visit_slice(slice_bounds(start, stop, step, static_cast<int64_t>(chars.size())), [&](size_t i) { out += chars[i]; });
    return runtime.make_text(std::move(out), object.is_markup());
  }
  const Sequence* sequence = object.sequence();
  if (!sequence || sequence->flavour > Flavour::kRange) return Value::undefined(fmt::format("a {} can't be sliced", type_name(object)));
  Values out;
  visit_slice(slice_bounds(start, stop, step, static_cast<int64_t>(sequence->items.size())),
              [&](size_t i) { out.push_back(sequence->items[i]); });
  return make_sequence(runtime, std::move(out), sequence->flavour, sequence->label);
}

}  // namespace tq::jinja
