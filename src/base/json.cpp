#include "base/json.h"

#include <cmath>
#include <unordered_set>
#include <vector>

#include "base/mapped_file.h"

namespace tq {
namespace {

// Builds the DOM and refuses what the library's own builder would take silently. Its builder also searches all earlier keys of an
// object for each new one, which takes minutes for a vocabulary; here a set does that.
class StrictSax {
 public:
  StrictSax(Json& root, int max_depth) : root_(root), max_depth_(max_depth) {}

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(Json::number_integer_t value) { return add(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return add(value); }
  bool number_float(Json::number_float_t value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t&) { return refuse("binary data"); }
  bool key(std::string& name) {
    if (!open_.back().keys.insert(name).second) return refuse(fmt::format("key '{}' appears twice", name.substr(0, 80)));
    append_member(*open_.back().value, std::move(name), nullptr);
    return true;
  }
  bool start_object(size_t) { return enter(Json::object()); }
  bool end_object() { return leave(); }
  bool start_array(size_t) { return enter(Json::array()); }
  bool end_array() { return leave(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) {
    return refuse(fmt::format("not valid JSON at byte {}", position));
  }
  const std::string& problem() const { return problem_; }

 private:
  struct Open {
    Json* value;  // the last element of its parent, which does not grow meanwhile
    std::unordered_set<std::string> keys;
  };

  // Where the next value goes.
  Json* place() {
    if (open_.empty()) return &root_;
    Json& parent = *open_.back().value;
    if (parent.is_object()) return &parent.get_ref<Json::object_t&>().back().second;
    parent.push_back(nullptr);
    return &parent.back();
  }
  template <typename T>
  bool add(T&& value) {
    *place() = std::forward<T>(value);
    return true;
  }
  bool enter(Json value) {
    if (static_cast<int>(open_.size()) >= max_depth_) return refuse(fmt::format("nested deeper than {} levels", max_depth_));
    Json* at = place();
    *at = std::move(value);
    open_.push_back({at, {}});
    return true;
  }
  bool leave() {
    open_.pop_back();
    return true;
  }
  bool refuse(std::string problem) {
    if (problem_.empty()) problem_ = std::move(problem);
    return false;
  }

  Json& root_;
  std::vector<Open> open_;
  int max_depth_;
  std::string problem_;
};

}  // namespace

void append_member(Json& object, std::string key, Json value) {
  static_cast<std::vector<Json::object_t::value_type>&>(object.get_ref<Json::object_t&>()).emplace_back(std::move(key), std::move(value));
}

Result<Json> parse_json(std::string_view text, const std::string& where, int max_depth) {
  if (text.find('\0') != std::string_view::npos) return bad_input("{}: a zero byte in JSON text", where);
  Json root;
  StrictSax sax(root, max_depth);
  if (!Json::sax_parse(text.begin(), text.end(), &sax))
    return bad_input("{}: {}", where, sax.problem().empty() ? "not valid JSON" : sax.problem());
  return root;
}

Result<Json> read_json_file(const std::string& path, size_t max_bytes) {
  TQ_ASSIGN(const std::string text, read_text_file(path, max_bytes));
  return parse_json(text, path);
}

const Json* JsonReader::find(std::string_view key) const {
  if (!object_->is_object()) return nullptr;
  const auto it = object_->find(std::string(key));
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool JsonReader::has(std::string_view key) const { return find(key) != nullptr; }

Result<int64_t> JsonReader::integer(std::string_view key, int64_t min, int64_t max) const {
  const Json* value = find(key);
  if (!value) return bad_input("{}: '{}' is missing", where_, key);
  int64_t integer = 0;
  if (value->is_number_unsigned()) {
    const auto wide = value->get<uint64_t>();
    if (wide > static_cast<uint64_t>(INT64_MAX)) return bad_input("{}: '{}' is out of range", where_, key);
    integer = static_cast<int64_t>(wide);
  } else if (value->is_number_integer()) {
    integer = value->get<int64_t>();
  } else if (value->is_number_float() && std::abs(value->get<double>()) < 0x1p53 &&
             std::nearbyint(value->get<double>()) == value->get<double>()) {
    integer = static_cast<int64_t>(value->get<double>());
  } else {
    return bad_input("{}: '{}' should be a whole number", where_, key);
  }
  if (integer < min || integer > max) return bad_input("{}: '{}' is {}, outside {} to {}", where_, key, integer, min, max);
  return integer;
}

Result<int64_t> JsonReader::integer_or(std::string_view key, int64_t fallback, int64_t min, int64_t max) const {
  if (!has(key)) return fallback;
  return integer(key, min, max);
}

Result<double> JsonReader::number(std::string_view key) const {
  const Json* value = find(key);
  if (!value) return bad_input("{}: '{}' is missing", where_, key);
  if (!value->is_number() || !std::isfinite(value->get<double>())) return bad_input("{}: '{}' should be a number", where_, key);
  return value->get<double>();
}

Result<double> JsonReader::number_or(std::string_view key, double fallback) const {
  if (!has(key)) return fallback;
  return number(key);
}

Result<bool> JsonReader::boolean_or(std::string_view key, bool fallback) const {
  const Json* value = find(key);
  if (!value) return fallback;
  if (!value->is_boolean()) return bad_input("{}: '{}' should be true or false", where_, key);
  return value->get<bool>();
}

Result<std::string> JsonReader::string(std::string_view key) const {
  const Json* value = find(key);
  if (!value) return bad_input("{}: '{}' is missing", where_, key);
  if (!value->is_string()) return bad_input("{}: '{}' should be a text", where_, key);
  return value->get<std::string>();
}

Result<std::string> JsonReader::string_or(std::string_view key, std::string_view fallback) const {
  if (!has(key)) return std::string(fallback);
  return string(key);
}

}  // namespace tq
