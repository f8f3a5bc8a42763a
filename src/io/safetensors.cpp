#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <unordered_map>

#include "base/mapped_file.h"
#include "io/safetensors_header.h"
#include "io/text.h"

namespace tq::safetensors {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxIndexBytes = size_t{100} << 20;

std::string_view as_text(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// The header's text, and the data behind it.
struct Sections {
  std::string_view header;
  std::span<const std::byte> data;
};

Result<Sections> split(std::span<const std::byte> bytes, const std::string& where) {
  const std::string_view text = as_text(bytes);
  if (text.starts_with("version https://git-lfs"))
    return bad_input("{}: a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'", where);
  if (text.starts_with("PK\x03\x04"))
    return bad_input(
        "{}: a pickled PyTorch file or another archive, not safetensors; convert it with transformers' "
        "save_pretrained(safe_serialization=True)",
        where);
  if (bytes.size() < 8)
    return bad_input("{}: {} bytes are too few for a safetensors file; it is incomplete, fetch it again", where, bytes.size());
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxHeaderBytes)
    return bad_input("{}: not a safetensors file (its header would be {} bytes, above the format's limit)", where, length);
  if (length > bytes.size() - 8)
    return bad_input("{}: the header ({} bytes) reaches past the end of the file; it is incomplete, fetch it again", where, length);
  return Sections{text.substr(8, length), bytes.subspan(8 + length)};
}

// Sorts by offset and demands that the entries tile the data.
Status check_entries(std::vector<Entry>& entries, uint64_t data_bytes, const std::string& where) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t offset = 0;
  for (const Entry& entry : entries) {
    const std::string& name = entry.info.name;
    if (entry.begin != offset || entry.end < entry.begin)
      return bad_input("{}: tensor '{}' has the offsets {} to {}, where {} should begin; the file is damaged", where, name, entry.begin,
                       entry.end, offset);
    TQ_ASSIGN(const uint64_t bytes, tensor_bytes(entry.info, where));
    if (entry.end - entry.begin != bytes)
      return bad_input("{}: tensor '{}' has {} bytes, its shape and type need {}; the file is damaged", where, name,
                       entry.end - entry.begin, bytes);
    offset = entry.end;
  }
  if (offset > data_bytes)
    return bad_input("{}: the tensors need {} bytes, the file has {}; it is incomplete, fetch it again", where, offset, data_bytes);
  if (offset < data_bytes) return bad_input("{}: {} bytes behind the last tensor; the file is damaged", where, data_bytes - offset);
  return {};
}

struct Shard {
  std::vector<Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

Result<Shard> parse_shard(std::span<const std::byte> bytes, const std::string& where) {
  TQ_ASSIGN(const Sections sections, split(bytes, where));
  TQ_ASSIGN(Header header, parse_header(sections.header, where));
  TQ_TRY(check_entries(header.entries, sections.data.size(), where));
  Shard shard{{}, std::move(header.metadata)};
  shard.tensors.reserve(header.entries.size());
  for (Entry& entry : header.entries)
    shard.tensors.push_back(
        {std::move(entry.info.name), {entry.info.dtype, std::move(entry.info.shape), sections.data.data() + entry.begin}});
  return shard;
}

bool plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name.find("..") == std::string::npos && name.find_first_of("/\\") == std::string::npos &&
         printable_utf8(name);
}

Unexpected no_model(const std::string& dir) {
  std::error_code error;
  bool pickled = false, safe = false, gguf = false;
  if (!fs::is_directory(dir, error)) return bad_input("{}: not a directory", dir);
  for (auto it = fs::directory_iterator(dir, error); !error && it != fs::directory_iterator(); it.increment(error)) {
    const auto extension = it->path().extension();
    pickled |= extension == ".bin" || extension == ".pth" || extension == ".pt";
    safe |= extension == ".safetensors";
    gguf |= extension == ".gguf";
  }
  if (error) return bad_input("{}: cannot be read ({})", dir, error.message());
  if (safe)
    return bad_input(
        "{}: has *.safetensors but neither model.safetensors nor model.safetensors.index.json; fetch the index too, or name one file", dir);
  if (pickled)
    return bad_input(
        "{}: has only pickled weights, which can run code when they are read; convert them with transformers' "
        "save_pretrained(safe_serialization=True)",
        dir);
  return bad_input("{}: has no model.safetensors{}", dir,
                   gguf ? "; to use a GGUF file in it, name that file" : " or model.safetensors.index.json");
}

}  // namespace

struct Archive::Content {
  std::vector<std::shared_ptr<const MappedFile>> mappings;
  std::vector<Tensor> tensors;
  std::map<std::string, std::string> metadata;
  std::vector<std::string> files;
  uint64_t file_bytes = 0;
  std::unordered_map<std::string_view, const TensorView*> by_name;

  Status add(std::span<const std::byte> bytes, const std::string& where) {
    TQ_ASSIGN(Shard shard, parse_shard(bytes, where));
    for (Tensor& tensor : shard.tensors) tensors.push_back(std::move(tensor));
    metadata.merge(shard.metadata);
    files.push_back(where);
    file_bytes += bytes.size();
    return {};
  }
  Status add_file(const std::string& path) {
    TQ_ASSIGN(auto mapping, MappedFile::open(path));
    TQ_TRY(add(mapping->bytes(), path));
    mappings.push_back(std::move(mapping));
    return {};
  }
  // Adds the shards by name and checks that each holds what the index says.
  Status add_shards(const std::string& dir, const std::string& index_path) {
    TQ_ASSIGN(const auto index, MappedFile::open(index_path));
    if (index->bytes().size() > kMaxIndexBytes)
      return bad_input("{}: {} bytes are too many for an index", index_path, index->bytes().size());
    TQ_ASSIGN(const auto entries, parse_index(as_text(index->bytes()), index_path));
    std::set<std::string> shards;
    for (const IndexEntry& entry : entries) {
      if (!plain_file_name(entry.file))
        return bad_input("{}: tensor '{}' is in '{}', not a plain file name; fetch the index again", index_path, shown(entry.tensor),
                         shown(entry.file));
      shards.insert(entry.file);
    }
    std::unordered_map<std::string, const std::string*> home;
    for (const std::string& shard : shards) {
      const size_t begin = tensors.size();
      TQ_TRY(add_file((fs::path(dir) / shard).string()));
      for (size_t i = begin; i < tensors.size(); ++i)
        if (const auto [other, fresh] = home.emplace(tensors[i].name, &shard); !fresh)
          return bad_input("{}: tensor '{}' is in {} and in {}; fetch the shards again", dir, tensors[i].name, *other->second, shard);
    }
    for (const IndexEntry& entry : entries)
      if (const auto found = home.find(entry.tensor); found == home.end() || *found->second != entry.file)
        return bad_input("{}: tensor '{}' is not in {} as the index says; fetch the shards again", index_path, shown(entry.tensor),
                         entry.file);
    return {};
  }
};

Archive::Archive(std::unique_ptr<Content> content) {
  for (const Tensor& tensor : content->tensors) content->by_name.emplace(tensor.name, &tensor.view);
  content_ = std::move(content);
}

Archive::~Archive() = default;

Result<std::shared_ptr<const Archive>> Archive::parse(std::span<const std::byte> bytes, const std::string& where) {
  auto content = std::make_unique<Content>();
  TQ_TRY(content->add(bytes, where));
  return std::shared_ptr<const Archive>(new Archive(std::move(content)));
}

Result<std::shared_ptr<const Archive>> Archive::open_file(const std::string& path) {
  auto content = std::make_unique<Content>();
  TQ_TRY(content->add_file(path));
  return std::shared_ptr<const Archive>(new Archive(std::move(content)));
}

Result<std::shared_ptr<const Archive>> Archive::open_directory(const std::string& dir) {
  const std::string single = (fs::path(dir) / "model.safetensors").string(), index = single + ".index.json";
  std::error_code ignored;
  if (fs::exists(single, ignored)) return open_file(single);
  if (!fs::exists(index, ignored)) return no_model(dir);
  auto content = std::make_unique<Content>();
  TQ_TRY(content->add_shards(dir, index));
  return std::shared_ptr<const Archive>(new Archive(std::move(content)));
}

const std::vector<Tensor>& Archive::tensors() const { return content_->tensors; }
const std::map<std::string, std::string>& Archive::metadata() const { return content_->metadata; }
const std::vector<std::string>& Archive::files() const { return content_->files; }
uint64_t Archive::file_bytes() const { return content_->file_bytes; }

const TensorView* Archive::find(std::string_view name) const {
  const auto found = content_->by_name.find(name);
  return found == content_->by_name.end() ? nullptr : found->second;
}

}  // namespace tq::safetensors
