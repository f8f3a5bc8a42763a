#include "io/safetensors.h"

#include "io/bytes.h"

namespace tq::safetensors {
namespace {

using test::data_path;
using test::raw;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::byte> file_of(const std::string& json, size_t data_bytes) {
  return test::to_bytes(raw<uint64_t>(json.size()) + json + std::string(data_bytes, '\1'));
}

std::string problem(const std::string& json, size_t data_bytes = 0) {
  const auto bytes = file_of(json, data_bytes);
  const auto archive = Archive::parse(bytes, "x");
  if (archive) return "none";
  EXPECT_EQ(archive.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(archive.error().message.find('\n'), std::string::npos);
  return archive.error().message;
}

const std::string kOpen = "{";

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

void read_all(const Archive& archive) {
  for (const Tensor& tensor : archive.tensors()) {
    std::vector<float> values(static_cast<size_t>(tensor.view.count()));
    if (!values.empty()) to_float(tensor.view, values.data());
  }
}

TEST(Safetensors, FileOfThePyPiPackageReadsAsItWasMeant) {
  const auto archive = Archive::open_file(data_path("pypi.safetensors")).value();
  EXPECT_EQ(archive->tensors().size(), 8u);
  const TensorView* f32 = archive->find("f32");
  ASSERT_TRUE(f32);
  EXPECT_EQ(f32->dtype, DType::kF32);
  EXPECT_THAT(f32->shape, ElementsAre(2, 3));
  const auto floats = [&](const char* name) {
    std::vector<float> values(static_cast<size_t>(archive->find(name)->count()));
    if (!values.empty()) to_float(*archive->find(name), values.data());
    return values;
  };
  EXPECT_THAT(floats("f32"), ElementsAre(0, 0.5, 1, 1.5, 2, 2.5));
  EXPECT_THAT(floats("f16"), ElementsAre(1, -2, 0.5));
  EXPECT_THAT(floats("i64"), ElementsAre(-1, 0x1p40));
  EXPECT_THAT(floats("bool"), ElementsAre(1, 0, 1));
  EXPECT_THAT(floats("scalar"), ElementsAre(2.5));
  EXPECT_THAT(floats("empty"), ElementsAre());
  EXPECT_THAT(floats("näme"), ElementsAre(1));
  EXPECT_EQ(archive->metadata().at("note"), "a \"quoted\" text");
  EXPECT_THAT(archive->files(), ElementsAre(data_path("pypi.safetensors")));
  EXPECT_EQ(archive->file_bytes(), 598u);
  EXPECT_EQ(archive->find("none"), nullptr);
}

TEST(Safetensors, TensorsComeInFileOrder) {
  const auto bytes = file_of(
      kOpen + entry("b", "U8", "[2]", "[1,3]") + "," + entry("a", "U8", "[1]", "[0,1]") + "," + entry("e", "U8", "[0]", "[1,1]") + "}", 3);
  const auto archive = Archive::parse(bytes, "x").value();
  std::vector<std::string> names;
  for (const Tensor& tensor : archive->tensors()) names.push_back(tensor.name);
  EXPECT_THAT(names, ElementsAre("a", "e", "b"));
}

TEST(Safetensors, EveryTruncationIsAnError) {
  test::every_truncation(test::file_bytes(data_path("pypi.safetensors")), [&](std::span<const std::byte> prefix) {
    EXPECT_FALSE(Archive::parse(prefix, "x").has_value()) << prefix.size();
  });
}

TEST(Safetensors, EveryCorruptByteIsAnErrorOrSound) {
  test::every_corruption(test::file_bytes(data_path("pypi.safetensors")), [](std::span<const std::byte> bytes) {
    if (const auto archive = Archive::parse(bytes, "x")) read_all(**archive);
  });
}

TEST(Safetensors, EmptyAndMetadataOnlyFilesAreSound) {
  EXPECT_EQ(problem("{}"), "none");
  EXPECT_EQ(problem("{}    "), "none");
  EXPECT_EQ(problem(R"({"__metadata__":{}})"), "none");
  EXPECT_EQ(problem(R"({"__metadata__":null})"), "none");
}

TEST(Safetensors, HostileLengthsAreRefused) {
  const auto message = [](const std::string& text) {
    const auto bytes = test::to_bytes(text);
    return Archive::parse(bytes, "x").error().message;
  };
  EXPECT_THAT(message(""), HasSubstr("0 bytes are too few"));
  EXPECT_THAT(message(raw<uint64_t>(100'000'001)), HasSubstr("above the format's limit"));
  EXPECT_THAT(message(raw(UINT64_MAX)), HasSubstr("above the format's limit"));
  EXPECT_THAT(message(raw<uint64_t>(3) + "{}"), HasSubstr("past the end"));
  EXPECT_THAT(message(raw<uint64_t>(0)), HasSubstr("not a safetensors file"));
  EXPECT_THAT(message("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("git lfs pull"));
  EXPECT_THAT(message("PK\x03\x04 and so on"), HasSubstr("safe_serialization=True"));
}

TEST(Safetensors, OffsetsTileTheData) {
  EXPECT_EQ(problem(kOpen + entry("a", "F32", "[2]", "[0,8]") + "}", 8), "none");
  EXPECT_THAT(problem(kOpen + entry("a", "F32", "[2]", "[0,8]") + "}", 9), HasSubstr("1 bytes behind"));
  EXPECT_THAT(problem(kOpen + entry("a", "F32", "[2]", "[0,8]") + "}", 7), HasSubstr("the file has 7"));
  EXPECT_THAT(problem(kOpen + entry("a", "F32", "[2]", "[4,12]") + "}", 12), HasSubstr("where 0 should begin"));
  EXPECT_THAT(problem(kOpen + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[1,3]") + "}", 3),
              HasSubstr("where 2 should begin"));
  EXPECT_THAT(problem(kOpen + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[3,5]") + "}", 5),
              HasSubstr("where 2 should begin"));
  EXPECT_THAT(problem(kOpen + entry("a", "U8", "[0]", "[0,-1]") + "}"), HasSubstr("negative"));
  EXPECT_THAT(problem(kOpen + entry("a", "F32", "[3]", "[0,8]") + "}", 8), HasSubstr("has 8 bytes, its shape and type need 12"));
  EXPECT_THAT(problem(kOpen + entry("a", "U8", "[1]", "[18446744073709551615,0]") + "}"), HasSubstr("should begin"));
}

TEST(Safetensors, ShapesCannotOverflow) {
  const std::string huge = "4611686018427387904";  // 2^62
  EXPECT_THAT(problem(kOpen + entry("a", "F32", "[" + huge + ",4]", "[0,0]") + "}"), HasSubstr("impossible shape"));
  EXPECT_THAT(problem(kOpen + entry("a", "U8", "[" + huge + "," + huge + ",0]", "[0,0]") + "}"), HasSubstr("impossible shape"));
  EXPECT_THAT(problem(kOpen + entry("a", "U8", "[18446744073709551615]", "[0,0]") + "}"), HasSubstr("huge number"));
  EXPECT_THAT(problem(kOpen + entry("a", "U8", "[1e3]", "[0,0]") + "}"), HasSubstr("a fraction"));
}

TEST(Safetensors, UnknownTypesAreRefusedByName) {
  for (const char* type : {"F8_E8M0", "F4", "C64", "f32", "PICKLE"})
    EXPECT_THAT(problem(kOpen + entry("a", type, "[0]", "[0,0]") + "}"),
                HasSubstr(std::string("type '") + type + "', which is not supported"));
}

TEST(Safetensors, HeadersOfAnotherShapeAreRefused) {
  const std::string a = entry("a", "U8", "[0]", "[0,0]");
  EXPECT_THAT(problem(kOpen + a + "," + a + "}"), HasSubstr("'a' appears twice"));
  EXPECT_THAT(problem(R"({"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})"), HasSubstr("'dtype' appears twice"));
  EXPECT_THAT(problem(R"({"__metadata__":{"x":"1","x":"2"}})"), HasSubstr("'x' appears twice"));
  EXPECT_THAT(problem(R"({"__metadata__":{"x":1}})"), HasSubstr("a number is unexpected in __metadata__"));
  EXPECT_THAT(problem(R"({"a":{"dtype":"U8","shape":[0]}})"), HasSubstr("missing in the entry of tensor 'a'"));
  EXPECT_THAT(problem(kOpen + entry("a", "U8", "[0]", "[0]") + "}"), HasSubstr("not two numbers"));
  EXPECT_THAT(problem(kOpen + entry("a", "U8", "[0]", "[0,0,0]") + "}"), HasSubstr("unexpected"));
  EXPECT_THAT(problem(kOpen + entry("a", "U8", "[[0]]", "[0,0]") + "}"), HasSubstr("an array is unexpected"));
  EXPECT_THAT(problem(R"({"a":[]})"), HasSubstr("an array is unexpected"));
  EXPECT_THAT(problem(R"({"a":{"strides":[0]}})"), HasSubstr("unknown field 'strides'"));
  EXPECT_THAT(problem(" {}"), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(problem("{}x"), HasSubstr("not valid JSON"));
  EXPECT_THAT(problem(std::string("{}\0x", 4)), HasSubstr("not valid JSON at byte 2"));
  EXPECT_THAT(problem("{\"\xff\":{}}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(problem(kOpen + entry("\\u001b[2J", "U8", "[0]", "[0,0]") + "}"), HasSubstr("'?[2J' contains control"));
  EXPECT_THAT(problem("{\"a\":" + std::string(100'000, '[')), HasSubstr("an array is unexpected"));
}

using SafetensorsDirectory = test::FolderTest;

void put(const std::string& path, const std::string& text) {
  std::FILE* out = std::fopen(path.c_str(), "wb");
  ASSERT_TRUE(out);
  std::fwrite(text.data(), 1, text.size(), out);
  std::fclose(out);
}

TEST_F(SafetensorsDirectory, ShardsReadAsOneArchive) {
  const auto archive = Archive::open_directory(data_path("sharded")).value();
  std::vector<std::string> names;
  for (const Tensor& tensor : archive->tensors()) names.push_back(tensor.name);
  EXPECT_THAT(names, ::testing::UnorderedElementsAre("a", "b", "c"));
  EXPECT_EQ(names.front(), "a");
  EXPECT_EQ(archive->files().size(), 2u);
  EXPECT_EQ(archive->metadata().at("format"), "pt");
  EXPECT_EQ(archive->file_bytes(), 112u + 134u);
}

TEST_F(SafetensorsDirectory, ASingleFileComesBeforeTheIndex) {
  test::fs::copy_file(data_path("pypi.safetensors"), path("model.safetensors"));
  put(path("model.safetensors.index.json"), "nonsense");
  EXPECT_TRUE(Archive::open_directory(folder_.string()).has_value());
}

TEST_F(SafetensorsDirectory, TheIndexIsCheckedAgainstTheShards) {
  const std::string one = "model-00001-of-00002.safetensors", two = "model-00002-of-00002.safetensors";
  test::fs::copy_file(data_path("sharded/" + one), path(one));
  test::fs::copy_file(data_path("sharded/" + two), path(two));
  const auto message = [&](const std::string& map) {
    put(path("model.safetensors.index.json"), map);
    const auto archive = Archive::open_directory(folder_.string());
    return archive ? "none" : archive.error().message;
  };
  EXPECT_EQ(message(R"({"weight_map":{"a":")" + one + R"(","b":")" + two + R"("}})"), "none");
  EXPECT_THAT(message(R"({"weight_map":{"a":")" + two + R"(","b":")" + one + R"("}})"), HasSubstr("tensor 'a' is not in " + two));
  EXPECT_THAT(message(R"({"weight_map":{"z":")" + one + R"("}})"), HasSubstr("tensor 'z' is not in"));
  EXPECT_THAT(message(R"({"weight_map":{"a":"model-3.safetensors"}})"), HasSubstr("model-3.safetensors: cannot be opened"));
  for (const std::string bad : {"../x.safetensors", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b"})
    EXPECT_THAT(message(R"({"weight_map":{"a":")" + bad + R"("}})"), HasSubstr("not a plain file name")) << bad;
  EXPECT_THAT(message("{}"), HasSubstr("'weight_map' is missing"));
  EXPECT_THAT(message(R"({"weight_map":[]})"), HasSubstr("unexpected in weight_map"));
  EXPECT_THAT(message(R"({"weight_map":{"a":{}}})"), HasSubstr("an object is unexpected"));
  EXPECT_THAT(message(R"({"weight_map":{"a":"x","a":"y"}})"), HasSubstr("'a' appears twice"));
  EXPECT_THAT(message("[]"), HasSubstr("unexpected"));
  EXPECT_THAT(message(R"({"metadata":)" + std::string(100, '[')), HasSubstr("nested deeper"));
}

TEST_F(SafetensorsDirectory, ATensorInTwoShardsIsRefused) {
  for (const char* name : {"x.safetensors", "y.safetensors"}) test::fs::copy_file(data_path("pypi.safetensors"), path(name));
  put(path("model.safetensors.index.json"), R"({"weight_map":{"f32":"x.safetensors","f16":"y.safetensors"}})");
  EXPECT_THAT(Archive::open_directory(folder_.string()).error().message, HasSubstr("is in x.safetensors and in y.safetensors"));
}

TEST_F(SafetensorsDirectory, PickledWeightsAreRefusedWithAdvice) {
  EXPECT_THAT(Archive::open_directory(folder_.string()).error().message, HasSubstr("has no model.safetensors"));
  put(path("pytorch_model.bin"), "PK");
  EXPECT_THAT(Archive::open_directory(folder_.string()).error().message, HasSubstr("save_pretrained(safe_serialization=True)"));
  put(path("other.safetensors"), "");
  EXPECT_THAT(Archive::open_directory(folder_.string()).error().message, HasSubstr("fetch the index"));
  EXPECT_THAT(Archive::open_directory(path("absent")).error().message, HasSubstr("not a directory"));
}

}  // namespace
}  // namespace tq::safetensors
