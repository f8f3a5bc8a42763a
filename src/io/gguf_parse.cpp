#include "io/gguf_parse.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>
#include <unordered_set>

#include "io/text.h"
#include "tensor/ggml_types.h"

namespace tq::gguf {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF values are read in place");

constexpr uint64_t kMaxEntries = uint64_t{1} << 20;  // keys, or tensors: the largest models have some thousands
constexpr uint64_t kMaxKeyBytes = 65535;             // gguf.md
constexpr uint64_t kMaxNameBytes = 128;              // gguf.md says 64; programs built with a larger GGML_MAX_NAME exist
constexpr uint32_t kMaxDims = 4;
constexpr int kMaxNesting = 4;
constexpr uint64_t kDefaultAlignment = 32;

struct TypeInfo {
  std::string_view name;
  uint64_t bytes;
};
constexpr std::array<TypeInfo, 13> kTypes{{{"u8", 1},
                                           {"i8", 1},
                                           {"u16", 2},
                                           {"i16", 2},
                                           {"u32", 4},
                                           {"i32", 4},
                                           {"f32", 4},
                                           {"bool", 1},
                                           {"string", 0},
                                           {"array", 0},
                                           {"u64", 8},
                                           {"i64", 8},
                                           {"f64", 8}}};

// Types that ggml had and gave up: their ids stay reserved.
struct Withdrawn {
  uint32_t id;
  std::string_view name;
  std::string_view successor;
};
constexpr std::array<Withdrawn, 8> kWithdrawn{{{4, "Q4_2", "Q4_0"},
                                               {5, "Q4_3", "Q4_1"},
                                               {31, "Q4_0_4_4", "Q4_0"},
                                               {32, "Q4_0_4_8", "Q4_0"},
                                               {33, "Q4_0_8_8", "Q4_0"},
                                               {36, "IQ4_NL_4_4", "IQ4_NL"},
                                               {37, "IQ4_NL_4_8", "IQ4_NL"},
                                               {38, "IQ4_NL_8_8", "IQ4_NL"}}};

class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }
  const std::string& where() const { return where_; }

  Result<std::span<const std::byte>> take(uint64_t count, std::string_view what) {
    if (count > left())
      return bad_input("{}: {} at byte {} reaches past the end of the file ({} bytes); it is damaged or incomplete, fetch it again", where_,
                       what, at_, bytes_.size());
    const auto taken = bytes_.subspan(at_, count);
    at_ += count;
    return taken;
  }
  template <typename T>
  Result<T> read(std::string_view what) {
    TQ_ASSIGN(const auto bytes, take(sizeof(T), what));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  Result<std::string_view> text(std::string_view what) {
    TQ_ASSIGN(const uint64_t length, read<uint64_t>(what));
    TQ_ASSIGN(const auto bytes, take(length, what));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  // Used in messages and as a key of maps, so it must be fit for that.
  Result<std::string_view> name(std::string_view what, uint64_t max_bytes) {
    const uint64_t begin = at_;
    TQ_ASSIGN(const auto text, this->text(what));
    if (text.empty() || text.size() > max_bytes)
      return bad_input("{}: {} at byte {} has {} bytes, not 1 to {}; the file is damaged", where_, what, begin, text.size(), max_bytes);
    if (!printable_utf8(text))
      return bad_input("{}: {} '{}' at byte {} is not plain text; the file is damaged", where_, what, shown(text), begin);
    return text;
  }
  // A count of things that take at least min_bytes each.
  Result<uint64_t> count(std::string_view what, uint64_t min_bytes) {
    const uint64_t begin = at_;
    TQ_ASSIGN(const uint64_t value, read<uint64_t>(what));
    if (value > left() / min_bytes)
      return bad_input("{}: the {} at byte {} is {}, more than the file can hold; it is damaged or incomplete", where_, what, begin, value);
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
  uint64_t at_ = 0;
};

Result<ValueType> read_type(Cursor& cursor, std::string_view key) {
  TQ_ASSIGN(const uint32_t id, cursor.read<uint32_t>("a value's type"));
  if (id >= kTypes.size())
    return bad_input("{}: '{}' has the unknown value type {}; the file is damaged or newer than this program", cursor.where(), key, id);
  return static_cast<ValueType>(id);
}

Status check_bools(std::span<const std::byte> bytes, const Cursor& cursor, std::string_view key) {
  const bool sound = std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b <= std::byte{1}; });
  if (!sound) return bad_input("{}: '{}' should be true or false (1 or 0); the file is damaged", cursor.where(), key);
  return {};
}

// Walks over `count` elements and checks them.
Status skip(Cursor& cursor, ValueType type, uint64_t count, std::string_view key, int depth) {
  if (const uint64_t size = value_type_size(type)) {
    TQ_ASSIGN(const auto bytes, cursor.take(count > cursor.left() / size ? UINT64_MAX : count * size, "a value"));
    return type == ValueType::kBool ? check_bools(bytes, cursor, key) : Status{};
  }
  if (type == ValueType::kArray && depth >= kMaxNesting)
    return bad_input("{}: '{}' has arrays nested deeper than {} levels", cursor.where(), key, kMaxNesting);
  for (uint64_t i = 0; i < count; ++i) {
    if (type == ValueType::kString) {
      TQ_TRY(cursor.text("a text"));
      continue;
    }
    TQ_ASSIGN(const ValueType element, read_type(cursor, key));
    TQ_ASSIGN(const uint64_t inner, cursor.count("length of an array", std::max<uint64_t>(value_type_size(element), 1)));
    TQ_TRY(skip(cursor, element, inner, key, depth + 1));
  }
  return {};
}

Result<Value> read_value(Cursor& cursor, std::span<const std::byte> bytes) {
  Value value;
  TQ_ASSIGN(value.key, cursor.name("a key", kMaxKeyBytes));
  const std::string key = shown(value.key);
  TQ_ASSIGN(value.type, read_type(cursor, key));
  value.element = value.type;
  if (value.type == ValueType::kArray) {
    TQ_ASSIGN(value.element, read_type(cursor, key));
    const uint64_t size = value_type_size(value.element);
    TQ_ASSIGN(value.count, cursor.count("length of an array", size ? size : 8));
  }
  const uint64_t begin = cursor.at();
  TQ_TRY(skip(cursor, value.element, value.count, key, 1));
  value.elements = bytes.subspan(begin, cursor.at() - begin);
  return value;
}

// A tensor as its header entry has it; data is set when the data section is known.
struct Entry {
  Tensor tensor;
  uint64_t offset = 0;
};

Result<const GgmlType*> tensor_type(uint32_t id, std::string_view name, const std::string& where) {
  if (const GgmlType* type = ggml_type(id)) return type;
  for (const Withdrawn& old : kWithdrawn)
    if (old.id == id)
      return bad_input("{}: tensor '{}' has type {}, which ggml has withdrawn; make the file again from the original model as {}", where,
                       name, old.name, old.successor);
  return bad_input("{}: tensor '{}' has the unknown type {}; the file is damaged or newer than this program", where, name, id);
}

// Fills tensor.shape and tensor.bytes. The product of all dimensions but the zeros must fit, so that element_count() cannot overflow.
Status read_shape(Cursor& cursor, Tensor& tensor, const std::vector<int64_t>& innermost_first, const GgmlType& type) {
  int64_t positive = 1;
  bool empty = false, overflow = false;
  for (const int64_t dim : innermost_first) {
    empty |= dim == 0;
    overflow |= dim < 0 || __builtin_mul_overflow(positive, dim ? dim : 1, &positive);
  }
  tensor.shape.assign(innermost_first.rbegin(), innermost_first.rend());
  const int64_t row = innermost_first.empty() ? 1 : innermost_first.front();
  if (!overflow && row % type.block_size != 0)
    return bad_input("{}: tensor '{}' has rows of {} elements, not a multiple of the {} in a block of {}; the file is damaged",
                     cursor.where(), tensor.name, row, type.block_size, type.name);
  int64_t bytes = 0;
  overflow = overflow || __builtin_mul_overflow(empty ? 0 : positive / type.block_size, type.block_bytes, &bytes);
  if (overflow) return bad_input("{}: tensor '{}' has impossible dimensions; the file is damaged", cursor.where(), tensor.name);
  tensor.bytes = static_cast<uint64_t>(bytes);
  return {};
}

Result<Entry> read_entry(Cursor& cursor) {
  Entry entry;
  TQ_ASSIGN(const auto name, cursor.name("a tensor's name", kMaxNameBytes));
  entry.tensor.name = name;
  TQ_ASSIGN(const uint32_t rank, cursor.read<uint32_t>("a tensor's rank"));
  if (rank > kMaxDims)
    return bad_input("{}: tensor '{}' has {} dimensions, more than {}; the file is damaged", cursor.where(), name, rank, kMaxDims);
  std::vector<int64_t> dims(rank);
  for (int64_t& dim : dims) {
    TQ_ASSIGN(dim, cursor.read<int64_t>("a tensor's shape"));
  }
  TQ_ASSIGN(entry.tensor.type, cursor.read<uint32_t>("a tensor's type"));
  TQ_ASSIGN(entry.offset, cursor.read<uint64_t>("a tensor's offset"));
  TQ_ASSIGN(const GgmlType* type, tensor_type(entry.tensor.type, name, cursor.where()));
  TQ_TRY(read_shape(cursor, entry.tensor, dims, *type));
  return entry;
}

// Refuses everything that is not version 2 or 3 in little endian, by its name.
Status read_magic(Cursor& cursor) {
  const std::string& where = cursor.where();
  TQ_ASSIGN(const auto bytes, cursor.take(4, "the magic number"));
  const std::string_view magic(reinterpret_cast<const char*>(bytes.data()), 4);
  if (magic == "lmgg" || magic == "fmgg" || magic == "tjgg" || magic == "algg")
    return bad_input("{}: a GGML file from before GGUF (2023); get the model as GGUF or safetensors", where);
  if (magic == "vers")
    return bad_input("{}: not a GGUF file; if it is a Git LFS pointer, fetch the file itself with 'git lfs pull'", where);
  if (magic != "GGUF") return bad_input("{}: not a GGUF file (it does not begin with 'GGUF')", where);
  TQ_ASSIGN(const uint32_t version, cursor.read<uint32_t>("the version"));
  if (version != 0 && (version & 0xffff) == 0)
    return bad_input("{}: a big-endian GGUF file; turn it round with 'gguf-convert-endian {} little' of the gguf Python package", where,
                     where);
  if (version == 1) return bad_input("{}: GGUF version 1 (August 2023) is not supported; convert the original model again", where);
  if (version != 2 && version != 3)
    return bad_input("{}: GGUF version {}; this program reads versions 2 and 3, a newer one may read it", where, version);
  return {};
}

Result<uint64_t> alignment(const std::vector<Value>& values, const std::string& where) {
  const auto found = std::find_if(values.begin(), values.end(), [](const Value& value) { return value.key == "general.alignment"; });
  if (found == values.end()) return kDefaultAlignment;
  uint32_t bytes = 0;
  if (found->type == ValueType::kU32) std::memcpy(&bytes, found->elements.data(), sizeof(bytes));
  if (bytes < 8 || !std::has_single_bit(bytes))  // gguf.md: a multiple of 8; its programs: a power of two
    return bad_input("{}: 'general.alignment' is not a u32 power of two from 8 up; the file is damaged", where);
  return bytes;
}

Status place(std::vector<Entry>& entries, std::span<const std::byte> data, uint64_t align, const std::string& where) {
  for (Entry& entry : entries) {
    const Tensor& tensor = entry.tensor;
    if (entry.offset % align != 0)
      return bad_input("{}: tensor '{}' begins at {}, not a multiple of the alignment {}; the file is damaged", where, tensor.name,
                       entry.offset, align);
    if (entry.offset > data.size() || tensor.bytes > data.size() - entry.offset)
      return bad_input("{}: tensor '{}' ({} bytes) reaches past the end of the file; it is incomplete, fetch it again", where, tensor.name,
                       tensor.bytes);
    entry.tensor.data = data.data() + entry.offset;
  }
  std::vector<const Entry*> order;
  for (const Entry& entry : entries)
    if (entry.tensor.bytes > 0) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i)
    if (order[i - 1]->offset + order[i - 1]->tensor.bytes > order[i]->offset)
      return bad_input("{}: tensors '{}' and '{}' overlap; the file is damaged", where, order[i - 1]->tensor.name, order[i]->tensor.name);
  return {};
}

}  // namespace

std::string_view value_type_name(ValueType type) { return kTypes.at(static_cast<size_t>(type)).name; }

uint64_t value_type_size(ValueType type) { return kTypes.at(static_cast<size_t>(type)).bytes; }

Result<Part> parse_part(std::span<const std::byte> bytes, const std::string& where) {
  Cursor cursor(bytes, where);
  TQ_TRY(read_magic(cursor));
  TQ_ASSIGN(const uint64_t tensor_count, cursor.count("number of tensors", 25));  // name of 1 byte, rank 0
  TQ_ASSIGN(const uint64_t key_count, cursor.count("number of keys", 14));        // name and value of 1 byte
  if (tensor_count > kMaxEntries || key_count > kMaxEntries)
    return bad_input("{}: {} keys and {} tensors, more than {}; the file is damaged", where, key_count, tensor_count, kMaxEntries);
  Part part;
  std::unordered_set<std::string_view> keys;
  for (uint64_t i = 0; i < key_count; ++i) {
    TQ_ASSIGN(Value value, read_value(cursor, bytes));
    if (!keys.insert(value.key).second) return bad_input("{}: key '{}' appears twice; the file is damaged", where, shown(value.key));
    part.values.push_back(value);
  }
  std::vector<Entry> entries;
  std::unordered_set<std::string> names;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    TQ_ASSIGN(Entry entry, read_entry(cursor));
    if (!names.insert(entry.tensor.name).second)
      return bad_input("{}: tensor '{}' appears twice; the file is damaged", where, entry.tensor.name);
    entries.push_back(std::move(entry));
  }
  TQ_ASSIGN(const uint64_t align, alignment(part.values, where));
  const uint64_t begin = std::min<uint64_t>((cursor.at() + align - 1) / align * align, bytes.size());
  TQ_TRY(place(entries, bytes.subspan(begin), align, where));
  for (Entry& entry : entries) part.tensors.push_back(std::move(entry.tensor));
  return part;
}

}  // namespace tq::gguf
