#include "io/gguf.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/mapped_file.h"
#include "io/gguf_parse.h"

namespace tq::gguf {
namespace {

constexpr int64_t kMaxParts = 99999;  // five digits

// PREFIX-00002-of-00003.gguf taken apart.
struct SplitName {
  std::string prefix;
  int64_t number = 0;  // from 1
  int64_t count = 0;
};

std::optional<int64_t> five_digits(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1) return std::nullopt;
  return value;
}

std::optional<SplitName> split_name(const std::string& path) {
  constexpr size_t kTail = std::string_view("-00001-of-00003.gguf").size();
  if (path.size() < kTail) return std::nullopt;
  const std::string_view tail = std::string_view(path).substr(path.size() - kTail);
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf") return std::nullopt;
  const auto number = five_digits(tail.substr(1, 5)), count = five_digits(tail.substr(10, 5));
  if (!number || !count || *number > *count) return std::nullopt;
  return SplitName{path.substr(0, path.size() - kTail), *number, *count};
}

// Parts know their number (split.no, from 0) and how many they are; both must agree with the name.
Status check_part(const File& part, int64_t number, int64_t count) {
  TQ_ASSIGN(const int64_t says_count, part.integer("split.count", 0, kMaxParts));
  TQ_ASSIGN(const int64_t says_number, part.integer("split.no", 0, kMaxParts));
  if (says_count == count && says_number + 1 == number) return {};
  return bad_input("{}: says it is part {} of {}, its name says {} of {}; give the parts of one model their original names", part.where(),
                   says_number + 1, says_count, number, count);
}

}  // namespace

File::File(std::unique_ptr<Content> content) {
  for (const Value& value : content->values) content->values_by_key.emplace(value.key, &value);
  for (const Tensor& tensor : content->tensors) content->tensors_by_name.emplace(tensor.name, &tensor);
  content_ = std::move(content);
}

File::~File() = default;

Result<std::shared_ptr<const File>> File::parse(std::span<const std::byte> bytes, const std::string& where) {
  TQ_ASSIGN(Part part, parse_part(bytes, where));
  auto content = std::make_unique<Content>();
  content->where = where;
  content->values = std::move(part.values);
  content->tensors = std::move(part.tensors);
  content->file_bytes = bytes.size();
  return std::shared_ptr<const File>(new File(std::move(content)));
}

Result<std::shared_ptr<const File>> File::open_part(const std::string& path) {
  TQ_ASSIGN(auto mapping, MappedFile::open(path));
  TQ_ASSIGN(Part part, parse_part(mapping->bytes(), path));
  auto content = std::make_unique<Content>();
  content->where = path;
  content->values = std::move(part.values);
  content->tensors = std::move(part.tensors);
  content->file_bytes = mapping->bytes().size();
  content->mappings.push_back(std::move(mapping));
  return std::shared_ptr<const File>(new File(std::move(content)));
}

Result<std::shared_ptr<const File>> File::join(const std::string& path, std::vector<std::shared_ptr<const File>> parts) {
  auto content = std::make_unique<Content>();
  content->where = path;
  content->values = parts.front()->content_->values;
  std::unordered_map<std::string_view, const File*> seen;
  for (const auto& part : parts) {
    const Content& own = *part->content_;
    content->mappings.insert(content->mappings.end(), own.mappings.begin(), own.mappings.end());
    content->file_bytes += own.file_bytes;
    for (const Tensor& tensor : own.tensors) {
      const auto [other, fresh] = seen.emplace(tensor.name, part.get());
      if (!fresh)
        return bad_input("{}: tensor '{}' is in {} too; these are not the parts of one model", part->where(), tensor.name,
                         other->second->where());
      content->tensors.push_back(tensor);
    }
  }
  TQ_ASSIGN(const int64_t expected, parts.front()->integer_or("split.tensors.count", -1, 0, INT64_MAX));
  if (expected >= 0 && static_cast<size_t>(expected) != content->tensors.size())
    return bad_input("{}: the parts hold {} tensors together, split.tensors.count says {}; fetch them again", path, content->tensors.size(),
                     expected);
  return std::shared_ptr<const File>(new File(std::move(content)));
}

Result<std::shared_ptr<const File>> File::open(const std::string& path) {
  TQ_ASSIGN(auto given, open_part(path));
  TQ_ASSIGN(const int64_t count, given->integer_or("split.count", 1, 0, kMaxParts));
  if (count <= 1) return given;
  const auto name = split_name(path);
  if (!name)
    return bad_input(
        "{}: one of {} parts of a split model, but not named like one; restore the name, NAME-00001-of-{:05}.gguf for the first", path,
        count, count);
  TQ_TRY(check_part(*given, name->number, name->count));
  std::vector<std::shared_ptr<const File>> parts;
  for (int64_t number = 1; number <= count; ++number) {
    if (number == name->number) {
      parts.push_back(given);
      continue;
    }
    auto part = open_part(fmt::format("{}-{:05}-of-{:05}.gguf", name->prefix, number, count));
    if (!part) return bad_input("part {} of {} of {}: {}", number, count, path, part.error().message);
    TQ_TRY(check_part(**part, number, count));
    parts.push_back(std::move(*part));
  }
  return join(path, std::move(parts));
}

const std::string& File::where() const { return content_->where; }
const std::vector<Tensor>& File::tensors() const { return content_->tensors; }
uint64_t File::file_bytes() const { return content_->file_bytes; }
std::vector<std::string> File::paths() const {
  std::vector<std::string> out;
  for (const auto& mapping : content_->mappings) out.push_back(mapping->path());
  return out;
}

const Tensor* File::find(std::string_view tensor) const {
  const auto found = content_->tensors_by_name.find(tensor);
  return found == content_->tensors_by_name.end() ? nullptr : found->second;
}

}  // namespace tq::gguf
