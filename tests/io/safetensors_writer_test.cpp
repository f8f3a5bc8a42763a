#include <numeric>

#include "io/bytes.h"
#include "io/safetensors.h"

namespace tq::safetensors {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Metadata = std::map<std::string, std::string>;

// scripts/oracles/io_fixtures.py knows this list and reads tests/data/io/written.safetensors with it.
const std::vector<TensorInfo> kList = {
    {"weight", DType::kF32, {4, 8}}, {"vide", DType::kBF16, {0, 2}}, {"scale", DType::kF64, {}}, {"bias", DType::kI16, {3}}};
const Metadata kMetadata = {{"format", "pt"}, {"quote", "\"\\\n"}};

std::vector<std::byte> list_data() {
  std::vector<float> weight(32);
  std::iota(weight.begin(), weight.end(), 0.0f);
  std::string data(reinterpret_cast<const char*>(weight.data()), 128);
  data += test::raw(0.5) + test::raw<int16_t>(-1) + test::raw<int16_t>(0) + test::raw<int16_t>(1);
  return test::to_bytes(data);
}

using SafetensorsWriter = test::FolderTest;

TEST_F(SafetensorsWriter, WhatIsWrittenIsRead) {
  const auto data = list_data();
  for (const size_t piece : {size_t{1}, size_t{7}, data.size()}) {
    auto writer = Writer::create(path("x"), kList, kMetadata);
    ASSERT_TRUE(writer.has_value());
    for (size_t at = 0; at < data.size(); at += piece)
      ASSERT_TRUE(writer->append(std::span(data).subspan(at, std::min(piece, data.size() - at))).has_value());
    EXPECT_FALSE(test::fs::exists(path("x")));
    ASSERT_TRUE(writer->finish().has_value());
    const auto archive = Archive::open_file(path("x")).value();
    EXPECT_EQ(archive->metadata(), kMetadata);
    ASSERT_EQ(archive->tensors().size(), kList.size());
    for (const TensorInfo& info : kList) {
      const TensorView* view = archive->find(info.name);
      ASSERT_TRUE(view);
      EXPECT_EQ(view->dtype, info.dtype);
      EXPECT_EQ(view->shape, info.shape);
    }
    EXPECT_TRUE(std::equal(data.begin(), data.end(), archive->find("weight")->data));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(archive->find("weight")->data) % 64, 0u);
    EXPECT_EQ(archive->find("weight")->as<float>()[31], 31.0f);
    EXPECT_EQ(archive->file_bytes(), Writer::file_size(kList, kMetadata));
    test::fs::remove(path("x"));
  }
}

// The committed file has been read by the PyPI package (io_fixtures.py --check).
TEST_F(SafetensorsWriter, BytesAreThoseThatTheOracleHasRead) {
  const std::string written = ::testing::TempDir() + "written.safetensors";
  auto writer = Writer::create(written, kList, kMetadata);
  ASSERT_TRUE(writer.has_value());
  ASSERT_TRUE(writer->append(list_data()).has_value());
  ASSERT_TRUE(writer->finish().has_value());
  const bool same = test::file_bytes(written) == test::file_bytes(test::data_path("written.safetensors"));
  EXPECT_TRUE(same) << "see " << written;
  if (same) test::fs::remove(written);
}

TEST_F(SafetensorsWriter, NothingStaysOfAnUnfinishedFile) {
  {
    auto writer = Writer::create(path("x"), kList);
    ASSERT_TRUE(writer.has_value());
    ASSERT_TRUE(writer->append(std::vector<std::byte>(5)).has_value());
  }
  EXPECT_TRUE(test::fs::is_empty(folder_));
}

TEST_F(SafetensorsWriter, SizesAreExactForAllHeaderLengths) {
  std::string name;
  for (int i = 0; i < 130; ++i) {
    const std::vector<TensorInfo> list = {{name += 'n', DType::kU8, {0}}};
    auto writer = Writer::create(path("x"), list);
    ASSERT_TRUE(writer.has_value() && writer->finish().has_value());
    ASSERT_EQ(test::fs::file_size(path("x")), Writer::file_size(list, {}));
    ASSERT_EQ(test::fs::file_size(path("x")) % 64, 0u);
  }
  auto writer = Writer::create(path("x"), {});
  ASSERT_TRUE(writer.has_value() && writer->finish().has_value());
  EXPECT_TRUE(Archive::open_file(path("x")).has_value());
}

TEST_F(SafetensorsWriter, OrderAlignsWhatCanBeAligned) {
  std::vector<TensorInfo> list = {{"odd", DType::kU8, {3}},
                                  {"big", DType::kBF16, {8, 8}},
                                  {"half", DType::kF16, {5}},
                                  {"word", DType::kF32, {3}},
                                  {"big2", DType::kU8, {64}}};
  order_for_alignment(list);
  std::vector<std::string> names;
  for (const TensorInfo& info : list) names.push_back(info.name);
  EXPECT_THAT(names, ElementsAre("big", "big2", "word", "half", "odd"));
}

TEST_F(SafetensorsWriter, ListsThatNoReaderWouldTakeAreRefused) {
  const auto message = [&](std::vector<TensorInfo> list, Metadata metadata = {}) {
    const auto writer = Writer::create(path("x"), std::move(list), std::move(metadata));
    return writer ? "none" : writer.error().message;
  };
  EXPECT_THAT(message({{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}), HasSubstr("two tensors are named 'a'"));
  EXPECT_THAT(message({{"__metadata__", DType::kU8, {1}}}), HasSubstr("cannot be the name"));
  EXPECT_THAT(message({{"a\n", DType::kU8, {1}}}), HasSubstr("cannot be the name"));
  EXPECT_THAT(message({{"a", DType::kU8, {-1}}}), HasSubstr("impossible shape"));
  EXPECT_THAT(message({{"a", DType::kF32, {INT64_MAX}}}), HasSubstr("impossible shape"));
  EXPECT_THAT(message({{"a", DType::kU8, {INT64_MAX}}, {"b", DType::kU8, {1}}}), HasSubstr("larger than any file"));
  EXPECT_THAT(message({}, {{"k", "\xff"}}), HasSubstr("not UTF-8"));
  EXPECT_TRUE(test::fs::is_empty(folder_));
}

TEST(SafetensorsWriterDeath, OverrunAndShortfallAreProgrammerErrors) {
  const std::string path = ::testing::TempDir() + "tq_io_death";
  auto writer = Writer::create(path, {{"a", DType::kU8, {2}}});
  ASSERT_TRUE(writer.has_value());
  EXPECT_DEATH((void)writer->append(std::vector<std::byte>(3)), "left_");
  EXPECT_DEATH((void)writer->finish(), "left_");
}

}  // namespace
}  // namespace tq::safetensors
