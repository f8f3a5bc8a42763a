#include "quantize/origin.h"

#include <gtest/gtest.h>

#include "convert/family_fixture.h"

namespace tq {
namespace {

using namespace families_test;

Model written(const Fixture& fixture, const std::string& path) {
  write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, path);
  return read(load_model(path));
}

TEST(Origin, IsTheContentAndNotThePlace) {
  Fixture fixture = load_fixture("llama2");
  const TemporaryDirectory directory;
  const std::string hash = origin_of(written(fixture, directory / "a/model"), {}).source;
  EXPECT_EQ(hash.size(), unknown_origin({}).source.size());
  EXPECT_EQ(origin_of(written(fixture, directory / "b/model"), {}).source, hash);
  fixture.json["config"]["rms_norm_eps"] = 0.5;
  EXPECT_NE(origin_of(written(fixture, directory / "c/model"), {}).source, hash);
  fixture = load_fixture("llama2");
  fixture.weights.back().values.back() += 1;
  EXPECT_NE(origin_of(written(fixture, directory / "d/model"), {}).source, hash);
}

TEST(Origin, OfALargeArrayIsItsEndsToo) {
  std::vector<float> values(1 << 20);
  Model model;
  const auto hash = [&] {
    model.tensors["a"].parts = {{"weight", {DType::kF32, {1 << 10, 1 << 10}, reinterpret_cast<const std::byte*>(values.data())}}};
    return origin_of(model, {}).source;
  };
  const std::string before = hash();
  for (float* value : {&values.front(), &values.back()}) {
    *value = 1;
    EXPECT_NE(hash(), before);
    *value = 0;
    EXPECT_EQ(hash(), before);
  }
}

TEST(Origin, OfTextsIsTheirContent) {
  const TemporaryDirectory directory;
  QuantizeOptions options;
  EXPECT_EQ(origin_of({}, options).calibration.size(), 1u);
  std::vector<std::string> hashes;
  for (const auto& [folder, text] : {std::pair("a", "one text"), {"b", "one text"}, {"c", "another"}}) {
    std::filesystem::create_directory(directory / folder);
    options.calibration = {directory / folder + "/text.txt", directory / folder + "/text.txt"};
    ASSERT_TRUE(write_file(options.calibration[0], text).has_value());
    hashes.push_back(origin_of({}, options).calibration.at(1));
  }
  EXPECT_EQ(hashes[0], hashes[1]);
  EXPECT_NE(hashes[0], hashes[2]);
  EXPECT_EQ(unknown_origin(options).calibration.size(), 2u);
  std::filesystem::remove(options.calibration[0]);
  EXPECT_EQ(origin_of({}, options).calibration[0], std::string(16, '0'));
}

}  // namespace
}  // namespace tq
