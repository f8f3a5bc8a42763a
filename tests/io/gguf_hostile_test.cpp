#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>

#include "io/bytes.h"
#include "io/gguf.h"

namespace tq::gguf {
namespace {

using test::raw;
using ::testing::HasSubstr;

std::string text(std::string_view value) { return raw<uint64_t>(value.size()) + std::string(value); }

// A file put together by hand. Keys and tensors are given as they are in the file.
struct Draft {
  uint32_t version = 3;
  std::vector<std::string> keys = {}, tensors = {};
  std::string data = std::string(64, '\1');
  std::optional<uint64_t> key_count = {}, tensor_count = {};

  std::vector<std::byte> bytes() const {
    std::string out =
        "GGUF" + raw(version) + raw<uint64_t>(tensor_count.value_or(tensors.size())) + raw<uint64_t>(key_count.value_or(keys.size()));
    for (const auto& key : keys) out += key;
    for (const auto& tensor : tensors) out += tensor;
    out.append((32 - out.size() % 32) % 32, '\0');
    return test::to_bytes(out + data);
  }
};

std::string u32_key(std::string_view name, uint32_t value) { return text(name) + raw<uint32_t>(4) + raw(value); }

std::string tensor(std::string_view name, std::vector<uint64_t> innermost_first, uint32_t type, uint64_t offset) {
  std::string out = text(name) + raw(static_cast<uint32_t>(innermost_first.size()));
  for (const uint64_t dim : innermost_first) out += raw(dim);
  return out + raw(type) + raw(offset);
}

std::string problem(const Draft& draft) {
  const auto bytes = draft.bytes();
  const auto file = File::parse(bytes, "x.gguf");
  if (file) return "none";
  EXPECT_EQ(file.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(file.error().message.find('\n'), std::string::npos);
  return file.error().message;
}

// Reads all that a file offers; sanitizers judge.
void read_all(const File& file) {
  for (const auto& key : file.keys()) {
    (void)file.string(key), (void)file.strings(key);
    (void)file.integer(key, 0, 1), (void)file.integers(key);
    (void)file.number(key), (void)file.numbers(key);
    (void)file.boolean_or(key, true);
  }
  for (const auto& tensor : file.tensors()) {
    const std::vector<std::byte> copy(tensor.data, tensor.data + tensor.bytes);
    EXPECT_GE(element_count(tensor.shape), 0);
  }
}

TEST(GgufHostile, SoundDraftsAreTaken) {
  EXPECT_EQ(problem({}), "none");
  EXPECT_EQ(
      problem(
          {.keys = {u32_key("a", 1)}, .tensors = {tensor("t", {4, 2}, 0, 0), tensor("u", {32}, 8, 0x20)}, .data = std::string(66, 'x')}),
      "none");
  EXPECT_EQ(problem({.tensors = {tensor("scalar", {}, 0, 0), tensor("empty", {0, 7}, 0, 32)}}), "none");
}

TEST(GgufHostile, EveryTruncationIsAnErrorOrSound) {
  const auto bytes = test::file_bytes(test::data_path("pypi.gguf"));
  size_t sound = 0;
  test::every_truncation(bytes, [&](std::span<const std::byte> prefix) {
    if (const auto file = File::parse(prefix, "x.gguf")) ++sound, read_all(**file);
  });
  EXPECT_LT(sound, 32u);  // only the padding behind the last tensor may go
}

TEST(GgufHostile, EveryCorruptByteIsAnErrorOrSound) {
  test::every_corruption(test::file_bytes(test::data_path("pypi.gguf")), [](std::span<const std::byte> bytes) {
    if (const auto file = File::parse(bytes, "x.gguf")) read_all(**file);
  });
}

TEST(GgufHostile, OtherFormatsAndVersionsAreNamed) {
  const auto message = [](std::string_view start) {
    const auto bytes = test::to_bytes(std::string(start) + std::string(64, '\0'));
    return File::parse(bytes, "x.gguf").error().message;
  };
  EXPECT_THAT(problem({.version = 1}), HasSubstr("GGUF version 1 (August 2023)"));
  EXPECT_THAT(problem({.version = 4}), HasSubstr("GGUF version 4"));
  EXPECT_THAT(problem({.version = 0}), HasSubstr("GGUF version 0"));
  EXPECT_THAT(problem({.version = 0x03000000}), HasSubstr("big-endian"));
  EXPECT_THAT(message("tjgg"), HasSubstr("before GGUF"));
  EXPECT_THAT(message("version https://git-lfs"), HasSubstr("git lfs pull"));
  EXPECT_THAT(message("PK\3\4"), HasSubstr("not a GGUF file"));
  EXPECT_THAT(File::parse({}, "x.gguf").error().message, HasSubstr("past the end of the file"));
}

TEST(GgufHostile, CountsAreCheckedBeforeAnythingIsAllocated) {
  EXPECT_THAT(problem({.key_count = UINT64_MAX}), HasSubstr("number of keys"));
  EXPECT_THAT(problem({.tensor_count = uint64_t{1} << 60}), HasSubstr("number of tensors"));
  EXPECT_THAT(problem({.keys = {raw<uint64_t>(UINT64_MAX) + "key"}}), HasSubstr("a key at byte"));
  const std::string array = text("a") + raw<uint32_t>(9);
  for (const uint32_t element : {0u, 4u, 8u, 9u, 12u})
    EXPECT_THAT(problem({.keys = {array + raw(element) + raw(UINT64_MAX / 4)}}), HasSubstr("length of an array")) << element;
  EXPECT_THAT(problem({.keys = {array + raw<uint32_t>(8) + raw<uint64_t>(1) + raw(UINT64_MAX - 7)}}), HasSubstr("a text at byte"));
  EXPECT_THAT(problem({.keys = {array + raw<uint32_t>(9) + raw<uint64_t>(1) + raw<uint32_t>(10) + raw(UINT64_MAX / 8 + 2)}}),
              HasSubstr("length of an array"));
}

TEST(GgufHostile, NestingIsLimited) {
  const auto nested = [](int levels) {
    std::string key = text("n");
    for (int i = 0; i < levels; ++i) key += raw<uint32_t>(9) + (i ? raw<uint64_t>(1) : "");
    return Draft{.keys = {key + raw<uint32_t>(0) + raw<uint64_t>(1) + "x"}};
  };
  EXPECT_EQ(problem(nested(3)), "none");
  EXPECT_THAT(problem(nested(200)), HasSubstr("nested deeper"));
  const auto bytes = nested(3).bytes();
  const auto file = File::parse(bytes, "x.gguf").value();
  EXPECT_THAT(file->integers("n").error().message, HasSubstr("array of 1 arrays"));
  EXPECT_FALSE(file->integers("n").has_value() || file->strings("n").has_value() || file->numbers("n").has_value());
}

TEST(GgufHostile, NamesAreUniqueShortAndPrintable) {
  EXPECT_THAT(problem({.keys = {u32_key("a", 1), u32_key("a", 2)}}), HasSubstr("key 'a' appears twice"));
  EXPECT_THAT(problem({.keys = {u32_key("", 1)}}), HasSubstr("0 bytes"));
  EXPECT_THAT(problem({.keys = {u32_key(std::string(65536, 'k'), 1)}}), HasSubstr("not 1 to 65535"));
  EXPECT_THAT(problem({.keys = {u32_key("\x1b[2J", 1)}}), HasSubstr("'?[2J'"));
  EXPECT_THAT(problem({.keys = {u32_key("\xff", 1)}}), HasSubstr("not plain text"));
  EXPECT_THAT(problem({.tensors = {tensor("t", {1}, 0, 0), tensor("t", {1}, 0, 32)}}), HasSubstr("tensor 't' appears twice"));
  EXPECT_THAT(problem({.tensors = {tensor(std::string(129, 't'), {1}, 0, 0)}}), HasSubstr("not 1 to 128"));
}

TEST(GgufHostile, TensorsAreCheckedForTypeShapeAndPlace) {
  EXPECT_THAT(problem({.tensors = {tensor("t", {32}, 31, 0)}}), HasSubstr("type Q4_0_4_4, which ggml has withdrawn"));
  EXPECT_THAT(problem({.tensors = {tensor("t", {32}, 4, 0)}}), HasSubstr("Q4_2"));
  EXPECT_THAT(problem({.tensors = {tensor("t", {32}, 1000, 0)}}), HasSubstr("unknown type 1000"));
  EXPECT_THAT(problem({.tensors = {tensor("t", {48, 2}, 8, 0)}}),
              HasSubstr("rows of 48 elements, not a multiple of the 32 in a block of Q8_0"));
  EXPECT_THAT(problem({.tensors = {tensor("t", {1, 1, 1, 1, 1}, 0, 0)}}), HasSubstr("5 dimensions"));
  EXPECT_THAT(problem({.tensors = {tensor("t", {17}, 0, 0)}}), HasSubstr("past the end"));
  EXPECT_THAT(problem({.tensors = {tensor("t", {1}, 0, 96)}}), HasSubstr("past the end"));
  EXPECT_THAT(problem({.tensors = {tensor("t", {1}, 0, UINT64_MAX - 31)}}), HasSubstr("past the end"));
  EXPECT_THAT(problem({.tensors = {tensor("t", {1}, 0, 4)}}), HasSubstr("alignment 32"));
  EXPECT_THAT(problem({.tensors = {tensor("t", {9}, 0, 0), tensor("u", {1}, 0, 32)}}), HasSubstr("overlap"));
  for (const std::vector<uint64_t>& dims : std::vector<std::vector<uint64_t>>{
           {uint64_t{1} << 63}, {uint64_t{1} << 32, uint64_t{1} << 31}, {uint64_t{1} << 61, 1}, {0, uint64_t{1} << 62, uint64_t{1} << 62}})
    EXPECT_THAT(problem({.tensors = {tensor("t", dims, 0, 0)}}), HasSubstr("impossible dimensions"));
}

TEST(GgufHostile, AlignmentIsAPowerOfTwoFrom8) {
  for (const uint32_t bad : {0u, 1u, 4u, 24u, 33u})
    EXPECT_THAT(problem({.keys = {u32_key("general.alignment", bad)}}), HasSubstr("power of two")) << bad;
  EXPECT_THAT(problem({.keys = {text("general.alignment") + raw<uint32_t>(8) + text("32")}}), HasSubstr("power of two"));
  EXPECT_EQ(problem({.keys = {u32_key("general.alignment", 8)}}), "none");
  EXPECT_THAT(problem({.keys = {u32_key("general.alignment", 1u << 31)}, .tensors = {tensor("t", {1}, 0, 0)}}), HasSubstr("past the end"));
}

TEST(GgufHostile, ValuesAreCheckedWhenTheyAreRead) {
  EXPECT_THAT(problem({.keys = {text("b") + raw<uint32_t>(7) + "\2"}}), HasSubstr("true or false"));
  EXPECT_THAT(problem({.keys = {text("b") + raw<uint32_t>(13) + "xxxx"}}), HasSubstr("unknown value type 13"));
  const Draft draft{.keys = {text("nan") + raw<uint32_t>(6) + raw(std::nanf("")),
                             text("esc") + raw<uint32_t>(8) + text("\x1b[31m\xff" + std::string(100, 'x'))}};
  const auto bytes = draft.bytes();
  const auto file = File::parse(bytes, "x.gguf").value();
  EXPECT_THAT(file->number("nan").error().message, HasSubstr("not a finite number"));
  EXPECT_FALSE(file->numbers("nan").has_value());
  EXPECT_EQ(file->string("esc").value().size(), 106u);
}

TEST(GgufHostile, ALargeVocabularyParsesInNoTime) {
  std::string key = text("tokens") + raw<uint32_t>(9) + raw<uint32_t>(8) + raw<uint64_t>(500'000);
  for (int i = 0; i < 500'000; ++i) key += text(std::to_string(i));
  const auto bytes = Draft{.keys = {key}}.bytes();
  const auto start = std::chrono::steady_clock::now();
  const auto file = File::parse(bytes, "x.gguf").value();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(500));  // some 5 ms without sanitizers
  EXPECT_EQ(file->strings("tokens").value().at(123'456), "123456");
}

}  // namespace
}  // namespace tq::gguf
