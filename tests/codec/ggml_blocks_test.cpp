// Every tensor type of GGUF against the PyPI package gguf: tests/data/ggml/blocks.json, made by scripts/oracles/ggml_blocks.py.
#include <bit>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/hash.h"
#include "base/rng.h"
#include "codec/all_ggml_types.h"
#include "codec/codec.h"
#include "codec/ggml/decode.h"

namespace tq {
namespace {

// The fixture's generator: the bytes of Rng(seed), little-endian.
std::vector<std::byte> random_bytes(uint64_t seed, size_t count) {
  std::vector<std::byte> bytes((count + 7) / 8 * 8);
  Rng rng(seed);
  for (size_t at = 0; at < bytes.size(); at += 8) {
    const uint64_t word = rng.bits();
    std::memcpy(bytes.data() + at, &word, 8);
  }
  bytes.resize(count);
  return bytes;
}

// A NaN's sign and payload depend on the processor.
uint32_t bits_of(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : bits;
}

std::vector<uint32_t> decoded_bits(const GgmlType& type, int64_t blocks) {
  const std::vector<std::byte> bytes = random_bytes(type.id, static_cast<size_t>(blocks * type.block_bytes));
  std::vector<float> values(static_cast<size_t>(blocks * type.block_size));
  ggml::decode_blocks(type.id, bytes.data(), blocks, values.data());
  std::vector<uint32_t> bits(values.size());
  std::transform(values.begin(), values.end(), bits.begin(), bits_of);
  return bits;
}

TEST(GgmlBlocks, tenThousandRandomBlocksOfEveryTypeDecodeAsThePythonPackageDoes) {
  std::ifstream file(TQ_TEST_DATA "/ggml/blocks.json");
  const nlohmann::json fixture = nlohmann::json::parse(file);
  const auto blocks = fixture["blocks"].get<int64_t>();
  ASSERT_EQ(blocks, 10000);
  std::vector<uint32_t> seen;
  for (const nlohmann::json& entry : fixture["types"]) {
    const GgmlType* type = ggml_type(entry["type"].get<uint32_t>());
    ASSERT_NE(type, nullptr) << entry["name"];
    EXPECT_EQ(type->name, entry["name"].get<std::string>());
    ASSERT_TRUE(ggml::can_decode(type->id)) << type->name;
    const std::vector<uint32_t> bits = decoded_bits(*type, blocks);
    for (size_t i = 0; i < entry["first"].size(); ++i)
      ASSERT_EQ(fmt::format("{:08x}", bits[i]), entry["first"][i].get<std::string>()) << type->name << ", element " << i;
    EXPECT_EQ(hex64(hash64(std::as_bytes(std::span(bits)))), entry["hash"].get<std::string>()) << type->name;
    seen.push_back(type->id);
  }
  for (const GgmlType& type : all_ggml_types()) EXPECT_TRUE(std::count(seen.begin(), seen.end(), type.id)) << type.name << " has no oracle";
}

TEST(GgmlBlocks, aRowInTheMiddleOfATensorIsThatOfTheWhole) {
  for (const GgmlType& type : all_ggml_types()) {
    if (dtype_from_name(type.name)) continue;
    const int64_t columns = 2 * type.block_size;
    const std::vector<std::byte> bytes = random_bytes(7, static_cast<size_t>(6 * type.block_bytes));
    PackedTensor tensor{.codec = CodecId::kGgml, .variant = type.id, .shape = {3, columns}};
    tensor.parts.push_back({"blocks", TensorView{DType::kU8, {static_cast<int64_t>(bytes.size())}, bytes.data()}});
    ASSERT_TRUE(codec_of(CodecId::kGgml).validate(tensor, "t").has_value()) << type.name;
    const Buffer<float> all = decode(tensor);
    std::vector<float> row(static_cast<size_t>(columns));
    decode_rows(tensor, 1, 1, row.data());
    for (int64_t i = 0; i < columns; ++i) ASSERT_EQ(bits_of(row[static_cast<size_t>(i)]), bits_of(all.data()[columns + i])) << type.name;
    tensor.parts[0].view.shape[0] -= 1;
    EXPECT_FALSE(codec_of(CodecId::kGgml).validate(tensor, "t").has_value()) << type.name << ": a byte too few";
  }
}

}  // namespace
}  // namespace tq
