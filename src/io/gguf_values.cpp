// Typed access to the metadata of a GGUF file.
#include <cmath>
#include <cstring>
#include <optional>
#include <type_traits>
#include <variant>

#include "io/gguf_parse.h"

namespace tq::gguf {
namespace {

constexpr uint64_t kMaxElements = uint64_t{1} << 24;  // copied out of an array at once: vocabularies have 2^18, merges 2^19

using Scalar = std::variant<int64_t, uint64_t, double, bool>;

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// Element i; nothing for strings and arrays.
std::optional<Scalar> scalar(const Value& value, uint64_t i) {
  const std::byte* at = value.elements.data() + i * value_type_size(value.element);
  switch (value.element) {
    case ValueType::kU8: return Scalar{uint64_t{load<uint8_t>(at)}};
    case ValueType::kU16: return Scalar{uint64_t{load<uint16_t>(at)}};
    case ValueType::kU32: return Scalar{uint64_t{load<uint32_t>(at)}};
    case ValueType::kU64: return Scalar{load<uint64_t>(at)};
    case ValueType::kI8: return Scalar{int64_t{load<int8_t>(at)}};
    case ValueType::kI16: return Scalar{int64_t{load<int16_t>(at)}};
    case ValueType::kI32: return Scalar{int64_t{load<int32_t>(at)}};
    case ValueType::kI64: return Scalar{load<int64_t>(at)};
    case ValueType::kF32: return Scalar{static_cast<double>(load<float>(at))};
    case ValueType::kF64: return Scalar{load<double>(at)};
    case ValueType::kBool: return Scalar{load<uint8_t>(at) != 0};
    case ValueType::kString:
    case ValueType::kArray: return std::nullopt;
  }
  return std::nullopt;
}

std::optional<int64_t> as_integer(const Scalar& scalar) {
  if (const auto* value = std::get_if<int64_t>(&scalar)) return *value;
  if (const auto* value = std::get_if<uint64_t>(&scalar); value && *value <= static_cast<uint64_t>(INT64_MAX))
    return static_cast<int64_t>(*value);
  return std::nullopt;
}

std::optional<double> as_number(const Scalar& scalar) {
  if (std::holds_alternative<bool>(scalar)) return std::nullopt;
  return std::visit([](auto value) { return static_cast<double>(value); }, scalar);
}

// The string that begins at `at`, which moves behind it.
std::string_view next_string(const std::byte*& at) {
  const auto length = load<uint64_t>(at);
  const std::string_view text(reinterpret_cast<const char*>(at) + 8, length);
  at += 8 + length;
  return text;
}

std::string kind(const Value& value) {
  if (value.type != ValueType::kArray) return std::string(value_type_name(value.type));
  return fmt::format("array of {} {}{}", value.count, value_type_name(value.element), value_type_size(value.element) == 0 ? "s" : "");
}

Unexpected missing(const std::string& where, std::string_view key) { return bad_input("{}: '{}' is missing", where, key); }

Unexpected wrong(const std::string& where, std::string_view key, const Value& value, std::string_view wanted) {
  return bad_input("{}: '{}' should be {}, not {}", where, key, wanted, kind(value));
}

// The elements of `value` by `convert`, which gives an optional.
template <typename T, typename Convert>
Result<std::vector<T>> elements(const std::string& where, std::string_view key, const Value* value, std::string_view wanted,
                                Convert convert) {
  if (!value) return missing(where, key);
  if (value->count > kMaxElements) return bad_input("{}: '{}' has {} elements, more than {}", where, key, value->count, kMaxElements);
  std::vector<T> out;
  out.reserve(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto element = scalar(*value, i);
    const std::optional<T> converted = element ? convert(*element) : std::nullopt;
    if (!converted) return wrong(where, key, *value, wanted);
    out.push_back(*converted);
  }
  return out;
}

}  // namespace

bool File::has(std::string_view key) const { return content_->find(key) != nullptr; }

Result<std::string> File::string(std::string_view key) const {
  const Value* value = content_->find(key);
  if (!value) return missing(where(), key);
  if (value->type != ValueType::kString) return wrong(where(), key, *value, "a string");
  const std::byte* at = value->elements.data();
  return std::string(next_string(at));
}

Result<std::string> File::string_or(std::string_view key, std::string_view fallback) const {
  if (!has(key)) return std::string(fallback);
  return string(key);
}

Result<int64_t> File::integer(std::string_view key, int64_t min, int64_t max) const {
  const Value* value = content_->find(key);
  if (!value) return missing(where(), key);
  const auto element = value->type == ValueType::kArray ? std::nullopt : scalar(*value, 0);
  if (!element || std::holds_alternative<double>(*element) || std::holds_alternative<bool>(*element))
    return wrong(where(), key, *value, "an integer");
  const auto integer = as_integer(*element);
  if (!integer || *integer < min || *integer > max)
    return bad_input("{}: '{}' is {}, outside {} to {}", where(), key, std::visit([](auto v) { return fmt::format("{}", v); }, *element),
                     min, max);
  return *integer;
}

Result<int64_t> File::integer_or(std::string_view key, int64_t fallback, int64_t min, int64_t max) const {
  if (!has(key)) return fallback;
  return integer(key, min, max);
}

Result<double> File::number(std::string_view key) const {
  const Value* value = content_->find(key);
  if (!value) return missing(where(), key);
  const auto element = value->type == ValueType::kArray ? std::nullopt : scalar(*value, 0);
  const auto number = element ? as_number(*element) : std::nullopt;
  if (!number) return wrong(where(), key, *value, "a number");
  if (!std::isfinite(*number)) return bad_input("{}: '{}' is {}, not a finite number", where(), key, *number);
  return *number;
}

Result<double> File::number_or(std::string_view key, double fallback) const {
  if (!has(key)) return fallback;
  return number(key);
}

Result<bool> File::boolean_or(std::string_view key, bool fallback) const {
  const Value* value = content_->find(key);
  if (!value) return fallback;
  if (value->type != ValueType::kBool) return wrong(where(), key, *value, "a bool");
  return std::get<bool>(*scalar(*value, 0));
}

Result<std::vector<std::string>> File::strings(std::string_view key) const {
  const Value* value = content_->find(key);
  if (!value) return missing(where(), key);
  if (value->element != ValueType::kString) return wrong(where(), key, *value, "an array of strings");
  if (value->count > kMaxElements) return bad_input("{}: '{}' has {} elements, more than {}", where(), key, value->count, kMaxElements);
  std::vector<std::string> out;
  out.reserve(value->count);
  const std::byte* at = value->elements.data();
  for (uint64_t i = 0; i < value->count; ++i) out.emplace_back(next_string(at));
  return out;
}

Result<std::vector<double>> File::numbers(std::string_view key) const {
  return elements<double>(where(), key, content_->find(key), "an array of numbers (not NaN)", [](const Scalar& element) {
    const auto number = as_number(element);
    return number && std::isnan(*number) ? std::nullopt : number;
  });
}

Result<std::vector<int64_t>> File::integers(std::string_view key) const {
  return elements<int64_t>(where(), key, content_->find(key), "an array of integers", [](const Scalar& element) -> std::optional<int64_t> {
    if (const bool* flag = std::get_if<bool>(&element)) return *flag ? 1 : 0;
    return as_integer(element);
  });
}

std::vector<std::string> File::keys() const {
  std::vector<std::string> keys;
  for (const Value& value : content_->values) keys.emplace_back(value.key);
  return keys;
}

}  // namespace tq::gguf
