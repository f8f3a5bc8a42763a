#include "io/gguf.h"

#include <cstring>

#include "io/bytes.h"

namespace tq::gguf {
namespace {

using test::data_path;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::shared_ptr<const File> open(const std::string& name) {
  auto file = File::open(data_path(name));
  EXPECT_TRUE(file.has_value()) << file.error().message;
  return file ? *file : nullptr;
}

TEST(Gguf, ScalarsOfAllTypesReadAsTheWriterOfPyPiMeantThem) {
  const auto file = open("pypi.gguf");
  ASSERT_TRUE(file);
  const auto integer = [&](const char* key) { return file->integer(key, INT64_MIN, INT64_MAX).value(); };
  EXPECT_EQ(integer("v.u8"), 255);
  EXPECT_EQ(integer("v.i8"), -128);
  EXPECT_EQ(integer("v.u16"), 65535);
  EXPECT_EQ(integer("v.i16"), -32768);
  EXPECT_EQ(integer("v.u32"), 4294967295);
  EXPECT_EQ(integer("v.i32"), -2147483648);
  EXPECT_EQ(integer("v.i64"), INT64_MIN);
  EXPECT_FALSE(file->integer("v.u64", INT64_MIN, INT64_MAX).has_value());  // 2^64 - 1
  EXPECT_EQ(file->number("v.f32").value(), 1e-5f);
  EXPECT_EQ(file->number("v.f64").value(), 0.1);
  EXPECT_EQ(file->number("v.u8").value(), 255.0);
  EXPECT_TRUE(file->boolean_or("v.true", false).value());
  EXPECT_FALSE(file->boolean_or("v.false", true).value());
  EXPECT_EQ(file->string("v.string").value(), "Grüße");
  EXPECT_EQ(file->string("general.architecture").value(), "llama");
}

TEST(Gguf, ArraysAndScalarsReadAsVectors) {
  const auto file = open("pypi.gguf");
  ASSERT_TRUE(file);
  EXPECT_THAT(file->strings("a.strings").value(), ElementsAre("<s>", "", "▁the", "line\nbreak"));
  EXPECT_THAT(file->integers("a.i32").value(), ElementsAre(3, -4, 5));
  EXPECT_THAT(file->numbers("a.i32").value(), ElementsAre(3, -4, 5));
  EXPECT_THAT(file->numbers("a.f32").value(), ElementsAre(0.5, -1.25));
  EXPECT_THAT(file->integers("a.bools").value(), ElementsAre(1, 0));
  EXPECT_THAT(file->integers("v.u8").value(), ElementsAre(255));
  EXPECT_THAT(file->strings("v.string").value(), ElementsAre("Grüße"));
}

TEST(Gguf, WrongTypesAndRangesAreRefusedByKey) {
  const auto file = open("pypi.gguf");
  ASSERT_TRUE(file);
  EXPECT_THAT(file->integer("v.f32", 0, 1).error().message, HasSubstr("'v.f32' should be an integer, not f32"));
  EXPECT_THAT(file->integer("v.u8", 0, 100).error().message, HasSubstr("'v.u8' is 255, outside 0 to 100"));
  EXPECT_THAT(file->string("v.u8").error().message, HasSubstr("a string, not u8"));
  EXPECT_THAT(file->string("a.strings").error().message, HasSubstr("not array of 4 strings"));
  EXPECT_THAT(file->integers("a.f32").error().message, HasSubstr("not array of 2 f32"));
  EXPECT_THAT(file->strings("a.i32").error().message, HasSubstr("an array of strings"));
  EXPECT_THAT(file->boolean_or("v.u8", true).error().message, HasSubstr("a bool, not u8"));
  EXPECT_THAT(file->integer("no.key", 0, 1).error().message, HasSubstr("'no.key' is missing"));
  EXPECT_EQ(file->integer_or("no.key", 7, 0, 1).value(), 7);
  EXPECT_EQ(file->string_or("no.key", "x").value(), "x");
  EXPECT_EQ(file->number_or("no.key", 0.5).value(), 0.5);
  EXPECT_FALSE(file->has("no.key"));
}

TEST(Gguf, KeysComeInFileOrder) {
  const auto file = open("pypi.gguf");
  ASSERT_TRUE(file);
  EXPECT_EQ(file->keys().front(), "general.architecture");
}

void expect_tensors(const File& file) {
  ASSERT_EQ(file.tensors().size(), 3u);
  const Tensor* plain = file.find("plain");
  ASSERT_TRUE(plain);
  EXPECT_THAT(plain->shape, ElementsAre(3, 4));
  EXPECT_EQ(plain->bytes, 48u);
  for (int i = 0; i < 12; ++i) {
    float value = 0;
    std::memcpy(&value, plain->data + i * 4, 4);
    EXPECT_EQ(value, static_cast<float>(i));
  }
  const Tensor* blocks = file.find("blocks");
  ASSERT_TRUE(blocks);
  EXPECT_EQ(blocks->type, 8u);
  EXPECT_THAT(blocks->shape, ElementsAre(2, 64));
  EXPECT_EQ(blocks->bytes, 4u * 34u);
  EXPECT_EQ(static_cast<int8_t>(blocks->data[2]), -127);  // the block's greatest magnitude is its first value, -1
  EXPECT_EQ(file.find("half")->type, 1u);
  EXPECT_EQ(file.find("other"), nullptr);
}

TEST(Gguf, TensorsComeOutermostDimensionFirst) { expect_tensors(*open("pypi.gguf")); }

TEST(Gguf, Version2AndOtherAlignmentsReadTheSame) {
  expect_tensors(*open("version2.gguf"));
  const auto aligned = open("aligned64.gguf");
  expect_tensors(*aligned);
  for (const Tensor& tensor : aligned->tensors()) EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data) % 64, 0u);
}

TEST(Gguf, BigEndianIsRefusedWithAdvice) {
  const auto file = File::open(data_path("big_endian.gguf"));
  ASSERT_FALSE(file.has_value());
  EXPECT_EQ(file.error().code, ErrorCode::kBadInput);
  EXPECT_THAT(file.error().message, HasSubstr("gguf-convert-endian"));
}

using GgufSplit = test::FolderTest;

TEST_F(GgufSplit, AnyPartOpensAll) {
  for (const char* name : {"split-00001-of-00003.gguf", "split-00002-of-00003.gguf", "split-00003-of-00003.gguf"}) {
    const auto file = open(name);
    ASSERT_TRUE(file);
    expect_tensors(*file);
    EXPECT_EQ(file->file_bytes(), 768u + 192u + 320u);
    EXPECT_EQ(file->string("v.string").value(), "Grüße");
    EXPECT_EQ(file->where(), data_path(name));
    std::vector<std::string> paths;
    for (int i = 1; i <= 3; ++i) paths.push_back(data_path(fmt::format("split-{:05}-of-00003.gguf", i)));
    EXPECT_EQ(file->paths(), paths);
  }
}

TEST_F(GgufSplit, MissingOrMisnamedPartsAreNamed) {
  const auto copy = [&](const char* from, const char* to) {
    test::fs::copy_file(data_path(from), path(to), test::fs::copy_options::overwrite_existing);
  };
  copy("split-00001-of-00003.gguf", "m-00001-of-00003.gguf");
  copy("split-00003-of-00003.gguf", "m-00003-of-00003.gguf");
  EXPECT_THAT(File::open(path("m-00003-of-00003.gguf")).error().message, HasSubstr("m-00002-of-00003.gguf: cannot be opened"));
  copy("split-00003-of-00003.gguf", "m-00002-of-00003.gguf");
  EXPECT_THAT(File::open(path("m-00001-of-00003.gguf")).error().message, HasSubstr("says it is part 3 of 3, its name says 2 of 3"));
  copy("split-00001-of-00003.gguf", "model.gguf");
  EXPECT_THAT(File::open(path("model.gguf")).error().message, HasSubstr("restore the name"));
}

TEST_F(GgufSplit, PartsOfTwoModelsAreNotMixed) {
  for (int i = 1; i <= 3; ++i) {
    const std::string name = fmt::format("split-{:05}-of-00003.gguf", i);
    auto bytes = test::file_bytes(data_path(name));
    std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (const size_t at = text.find("blocks"); at != std::string::npos) text.replace(at, 6, "plain.");
    if (const size_t at = text.find("plain."); at != std::string::npos && i == 3)
      text.replace(at - 8, 14, test::raw<uint64_t>(5) + "plain"), text.append(64, '\0');
    std::FILE* out = std::fopen(path(name).c_str(), "wb");
    std::fwrite(text.data(), 1, text.size(), out);
    std::fclose(out);
  }
  const auto file = File::open(path("split-00001-of-00003.gguf"));
  ASSERT_FALSE(file.has_value());
  EXPECT_THAT(file.error().message, HasSubstr("tensor 'plain' is in"));
}

}  // namespace
}  // namespace tq::gguf
