// Golden artifacts of every format version decode to what docs/reference/decode.py reads from them, to the last bit.
#include <gtest/gtest.h>

#include <algorithm>

#include "artifact/editable_artifact.h"

namespace tq {
namespace {

// CRC-32 as of zlib.
uint32_t crc32(std::span<const std::byte> bytes) {
  uint32_t crc = ~0u;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<uint32_t>(byte);
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

// "format-1/NAME", of all formats.
std::vector<std::string> goldens() {
  std::vector<std::string> names;
  for (const char* format : {"format-1", "format-2", "format-3"})
    for (const auto& entry : std::filesystem::directory_iterator(std::string(TQ_TEST_DATA "/artifact/") + format))
      if (entry.is_directory()) names.push_back(format + ("/" + entry.path().filename().string()));
  std::sort(names.begin(), names.end());
  return names;
}

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  std::string folder() const { return TQ_TEST_DATA "/artifact/" + GetParam(); }
};

TEST_P(Golden, DecodesAsTheReferenceDoes) {
  const auto model = read_artifact(folder());
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const auto expected = read_json_file(folder() + ".expected.json");
  ASSERT_TRUE(expected.has_value()) << expected.error().message;
  EXPECT_EQ(expected->size(), model->tensors.size());
  for (const auto& [name, golden] : expected->items()) {
    const PackedTensor* tensor = model->find(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(golden["shape"].get<Shape>(), tensor->shape) << name;
    const Buffer<float> values = decode(*tensor);
    // "near": the largest value of a tensor that the format defines up to rounding.
    const float tolerance = golden.contains("near") ? 1e-5f * golden["near"].get<float>() : 0.0f;
    for (const auto& [index, value] : golden["values"].items())
      EXPECT_NEAR(values[std::stoul(index)], value.get<float>(), tolerance) << name << "[" << index << "]";
    if (tolerance > 0) continue;
    EXPECT_EQ(fmt::format("{:08x}", crc32(std::as_bytes(values.span()))), golden["crc32"].get<std::string>()) << name;
  }
}

TEST_P(Golden, HasTheHashesOfItsRecord) {
  const Status status = verify_artifact(folder());
  EXPECT_TRUE(status.has_value()) << status.error().message;
}

TEST_P(Golden, GivesSingleRowsAsItGivesAll) {
  const Model model = read_artifact(folder()).value();
  const PackedTensor& embedding = *model.find(model.spec.embedding + ".weight");
  const Buffer<float> all = decode(embedding);
  std::vector<float> row(static_cast<size_t>(embedding.columns()));
  for (const int64_t r : {int64_t{0}, int64_t{1}, int64_t{31}, int64_t{32}, embedding.rows() - 1}) {
    decode_rows(embedding, r, 1, row.data());
    EXPECT_TRUE(std::equal(row.begin(), row.end(), all.data() + r * embedding.columns())) << r;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Golden, ::testing::ValuesIn(goldens()), [](const auto& instance) {
  std::string name = instance.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
  return name;
});

}  // namespace
}  // namespace tq
