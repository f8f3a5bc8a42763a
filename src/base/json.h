// JSON of untrusted files: nlohmann's type (keys keep their order), parsed with limits and without duplicate keys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/result.h"

namespace tq {

using Json = nlohmann::ordered_json;

// Errors: kBadInput "where: …" for bad syntax, invalid UTF-8, a duplicate key, or nesting deeper than max_depth.
Result<Json> parse_json(std::string_view text, const std::string& where, int max_depth = 64);
Result<Json> read_json_file(const std::string& path, size_t max_bytes = size_t{256} << 20);

// Adds a member whose key the object is known not to have, in constant time; object[key] = value searches all members first.
void append_member(Json& object, std::string key, Json value);

// Typed access with one-line errors. `where` names the file (and section).
// A missing key and null are the same. Integers must fit; a float with an integral value is taken as an integer.
class JsonReader {
 public:
  // object must outlive the reader. A value that is no object reads as an empty one.
  JsonReader(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {}

  bool has(std::string_view key) const;
  const Json* find(std::string_view key) const;  // nullptr when missing or null
  const std::string& where() const { return where_; }

  Result<int64_t> integer(std::string_view key, int64_t min, int64_t max) const;
  Result<int64_t> integer_or(std::string_view key, int64_t fallback, int64_t min, int64_t max) const;
  Result<double> number(std::string_view key) const;
  Result<double> number_or(std::string_view key, double fallback) const;
  Result<bool> boolean_or(std::string_view key, bool fallback) const;
  Result<std::string> string(std::string_view key) const;
  Result<std::string> string_or(std::string_view key, std::string_view fallback) const;

 private:
  const Json* object_;
  std::string where_;
};

}  // namespace tq
