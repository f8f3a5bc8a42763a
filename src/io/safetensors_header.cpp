#include "io/safetensors_header.h"

#include <unordered_set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "io/text.h"

namespace tq::safetensors {
namespace {

using Json = nlohmann::json;

// Events of the JSON parser with everything refused; readers below allow what their format has.
class Events {
 public:
  virtual ~Events() = default;
  virtual bool null() { return refuse("null"); }
  virtual bool boolean(bool) { return refuse("a boolean"); }
  virtual bool number_integer(Json::number_integer_t) { return refuse("a negative number"); }
  virtual bool number_unsigned(Json::number_unsigned_t) { return refuse("a number"); }
  virtual bool number_float(Json::number_float_t, const std::string&) { return refuse("a fraction"); }
  virtual bool string(std::string&) { return refuse("a text"); }
  virtual bool start_object(size_t) { return refuse("an object"); }
  virtual bool key(std::string&) { return refuse("a key"); }
  virtual bool end_object() { return true; }
  virtual bool start_array(size_t) { return refuse("an array"); }
  virtual bool end_array() { return true; }
  bool binary(Json::binary_t&) { return false; }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) {
    return stop(fmt::format("not valid JSON at byte {}; the file is damaged", position));
  }
  const std::string& problem() const { return problem_; }

 protected:
  virtual std::string place() const = 0;
  bool refuse(std::string_view what) { return stop(fmt::format("{} is unexpected {}; the file is damaged", what, place())); }
  bool stop(std::string problem) {
    if (problem_.empty()) problem_ = std::move(problem);
    return false;
  }

 private:
  std::string problem_;
};

// {"__metadata__": {text: text}, NAME: {"dtype": text, "shape": [n, …], "data_offsets": [begin, end]}, …}
class HeaderEvents : public Events {
 public:
  explicit HeaderEvents(Header& header) : header_(header) {}

  bool start_object(size_t) override {
    if (state_ == State::kBegin) return go(State::kTop);
    if (state_ == State::kMetadataBegin) return go(State::kMetadata);
    if (state_ != State::kTensorBegin) return refuse("an object");
    has_dtype_ = has_shape_ = has_offsets_ = false;
    return go(State::kTensor);
  }
  bool end_object() override {
    if (state_ == State::kTop) return go(State::kEnd);
    if (state_ == State::kTensor && !(has_dtype_ && has_shape_ && has_offsets_))
      return stop(fmt::format("something is missing {}", place()));
    return go(State::kTop);
  }
  bool key(std::string& name) override {
    if (state_ == State::kMetadata) return metadata_key(name);
    if (state_ == State::kTensor) return field(name);
    if (!names_.insert(name).second) return stop(fmt::format("'{}' appears twice", shown(name)));
    if (name == "__metadata__") return go(State::kMetadataBegin);
    if (!printable_utf8(name)) return stop(fmt::format("the tensor name '{}' contains control characters", shown(name)));
    header_.entries.emplace_back().info.name = std::move(name);
    return go(State::kTensorBegin);
  }
  bool null() override { return state_ == State::kMetadataBegin ? go(State::kTop) : refuse("null"); }  // as the reference has it
  bool string(std::string& text) override {
    if (state_ == State::kMetadataValue) {
      header_.metadata[metadata_key_] = std::move(text);
      return go(State::kMetadata);
    }
    if (state_ != State::kDtype) return refuse("a text");
    const auto dtype = dtype_from_name(text);
    if (!dtype)
      return stop(fmt::format("tensor '{}' has type '{}', which is not supported; save it as F32, F16 or BF16", shown(entry().info.name),
                              shown(text)));
    entry().info.dtype = *dtype;
    return go(State::kTensor);
  }
  bool number_unsigned(Json::number_unsigned_t value) override {
    if (state_ == State::kShape && value <= static_cast<uint64_t>(INT64_MAX)) {
      entry().info.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (state_ != State::kOffsets || offsets_ == 2) return refuse(value > static_cast<uint64_t>(INT64_MAX) ? "a huge number" : "a number");
    (offsets_++ == 0 ? entry().begin : entry().end) = value;
    return true;
  }
  bool start_array(size_t) override {
    if (state_ == State::kShapeBegin) return go(State::kShape);
    return state_ == State::kOffsetsBegin ? go(State::kOffsets) : refuse("an array");
  }
  bool end_array() override {
    if (state_ == State::kOffsets && offsets_ != 2) return stop(fmt::format("data_offsets are not two numbers {}", place()));
    return go(State::kTensor);
  }

 private:
  enum class State {
    kBegin,
    kTop,
    kEnd,
    kMetadataBegin,
    kMetadata,
    kMetadataValue,
    kTensorBegin,
    kTensor,
    kDtype,
    kShapeBegin,
    kShape,
    kOffsetsBegin,
    kOffsets
  };

  bool go(State state) {
    state_ = state;
    return true;
  }
  Entry& entry() { return header_.entries.back(); }
  std::string place() const override {
    if (state_ == State::kBegin || state_ == State::kTop || state_ == State::kEnd) return "at the top level";
    if (state_ == State::kMetadataBegin || state_ == State::kMetadata || state_ == State::kMetadataValue) return "in __metadata__";
    return fmt::format("in the entry of tensor '{}'", shown(header_.entries.back().info.name));
  }
  bool metadata_key(std::string& name) {
    if (header_.metadata.contains(name)) return stop(fmt::format("'{}' appears twice {}", shown(name), place()));
    metadata_key_ = std::move(name);
    return go(State::kMetadataValue);
  }
  bool field(const std::string& name) {
    if (name == "dtype") return first(has_dtype_, name) && go(State::kDtype);
    if (name == "shape") return first(has_shape_, name) && go(State::kShapeBegin);
    if (name != "data_offsets") return stop(fmt::format("the unknown field '{}' {}", shown(name), place()));
    offsets_ = 0;
    return first(has_offsets_, name) && go(State::kOffsetsBegin);
  }
  bool first(bool& seen, std::string_view name) {
    if (seen) return stop(fmt::format("'{}' appears twice {}", name, place()));
    return seen = true;
  }

  Header& header_;
  State state_ = State::kBegin;
  std::unordered_set<std::string> names_;
  std::string metadata_key_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int offsets_ = 0;
};

// {"weight_map": {tensor: file}, …anything}
class IndexEvents : public Events {
 public:
  explicit IndexEvents(std::vector<IndexEntry>& entries) : entries_(entries) {}

  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(Json::number_integer_t) override { return scalar("a number"); }
  bool number_unsigned(Json::number_unsigned_t) override { return scalar("a number"); }
  bool number_float(Json::number_float_t, const std::string&) override { return scalar("a number"); }
  bool string(std::string& text) override {
    if (!in_map_ || depth_ != 2) return scalar("a text");
    entries_.back().file = std::move(text);
    return true;
  }
  bool key(std::string& name) override {
    if (depth_ == 1) {
      if (name == "weight_map" && !maps_.insert(name).second) return stop("'weight_map' appears twice");
      in_map_ = name == "weight_map";
    } else if (in_map_) {
      if (!tensors_.insert(name).second) return stop(fmt::format("'{}' appears twice {}", shown(name), place()));
      entries_.push_back({std::move(name), {}});
    }
    return true;
  }
  bool start_object(size_t) override { return in_map_ && depth_ != 1 ? refuse("an object") : enter(); }
  bool end_object() override { return leave(); }
  bool start_array(size_t) override { return depth_ == 0 || in_map_ ? refuse("an array") : enter(); }
  bool end_array() override { return leave(); }
  bool complete() const { return !maps_.empty(); }

 private:
  static constexpr int kMaxDepth = 32;

  std::string place() const override { return in_map_ ? "in weight_map" : "at the top level"; }
  bool scalar(std::string_view what) { return depth_ == 0 || in_map_ ? refuse(what) : true; }
  bool enter() { return ++depth_ <= kMaxDepth || stop(fmt::format("nested deeper than {} levels", kMaxDepth)); }
  bool leave() {
    if (--depth_ == 1) in_map_ = false;
    return true;
  }

  std::vector<IndexEntry>& entries_;
  std::unordered_set<std::string> tensors_, maps_;
  bool in_map_ = false;
  int depth_ = 0;
};

Status read_json(std::string_view json, Events& events, const std::string& where) {
  // The parser takes a NUL for the end of the text and would not look behind it.
  if (const size_t nul = json.find('\0'); nul != std::string_view::npos)
    return bad_input("{}: not valid JSON at byte {}; the file is damaged", where, nul);
  if (!Json::sax_parse(json.begin(), json.end(), &events)) return bad_input("{}: {}", where, events.problem());
  return {};
}

std::string quoted(const std::string& text) { return Json(text).dump(); }

}  // namespace

Result<Header> parse_header(std::string_view json, const std::string& where) {
  if (!json.starts_with('{')) return bad_input("{}: not a safetensors file (its header does not begin with '{{')", where);
  Header header;
  HeaderEvents events(header);
  TQ_TRY(read_json(json, events, where));
  return header;
}

Result<std::vector<IndexEntry>> parse_index(std::string_view json, const std::string& where) {
  std::vector<IndexEntry> entries;
  IndexEvents events(entries);
  TQ_TRY(read_json(json, events, where));
  if (!events.complete() || entries.empty()) return bad_input("{}: 'weight_map' is missing or empty; fetch the index again", where);
  return entries;
}

Result<uint64_t> tensor_bytes(const TensorInfo& info, const std::string& where) {
  auto bytes = static_cast<int64_t>(dtype_size(info.dtype));
  bool empty = false, impossible = false;
  for (const int64_t dim : info.shape) {
    empty |= dim == 0;
    impossible |= dim < 0 || __builtin_mul_overflow(bytes, dim ? dim : 1, &bytes);
  }
  if (impossible) return bad_input("{}: tensor '{}' has the impossible shape {}", where, shown(info.name), shown(shape_text(info.shape)));
  return empty ? 0 : static_cast<uint64_t>(bytes);
}

std::string header_bytes(const std::vector<TensorInfo>& tensors, const std::map<std::string, std::string>& metadata) {
  std::string json = "{";
  const auto separate = [&json] {
    if (json.back() != '{') json += ',';
  };
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      separate();
      json += quoted(key) + ":" + quoted(value);
    }
    json += '}';
  }
  uint64_t offset = 0;
  for (const TensorInfo& info : tensors) {
    const auto bytes = tensor_bytes(info, "");
    TQ_CHECK(bytes.has_value());
    separate();
    json += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", quoted(info.name), dtype_name(info.dtype),
                        fmt::join(info.shape, ","), offset, offset + *bytes);
    offset += *bytes;
  }
  json += '}';
  json.append((64 - (8 + json.size()) % 64) % 64, ' ');
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(json.size() >> (8 * i));
  return out + json;
}

}  // namespace tq::safetensors
