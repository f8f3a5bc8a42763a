// What is written is what is read, in one file or in shards.
#include <gtest/gtest.h>

#include <algorithm>

#include "artifact/editable_artifact.h"
#include "base/mapped_file.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGolden = "llama-untied-2.5";

bool same_bytes(const PackedTensor& a, const PackedTensor& b) {
  if (a.codec != b.codec || a.shape != b.shape || a.parts.size() != b.parts.size()) return false;
  return std::all_of(a.parts.begin(), a.parts.end(), [&](const PackedTensor::Part& part) {
    const TensorView* other = b.part(part.name);
    if (!other || other->dtype != part.view.dtype || other->shape != part.view.shape) return false;
    const auto x = part.view.span(), y = other->span();
    return std::equal(x.begin(), x.end(), y.begin(), y.end());
  });
}

void expect_same_model(const Model& a, const Model& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    ASSERT_NE(b.find(name), nullptr) << name;
    EXPECT_TRUE(same_bytes(tensor, *b.find(name))) << name;
  }
}

uint64_t weight_bytes(const std::string& folder) {
  uint64_t total = 0;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename().string().starts_with("model")) total += entry.file_size();
  return total;
}

TEST(ArtifactRoundTrip, OneFileComesOutByteForByte) {
  const EditableArtifact artifact(kGolden);
  const TemporaryFolder folder;
  artifact.save(folder.path());
  EXPECT_EQ(read_text_file(folder.path() + "/model.safetensors", 1 << 20).value(),
            read_text_file(golden_folder() + "/" + kGolden + "/model.safetensors", 1 << 20).value());
  expect_same_model(read_artifact(golden_folder() + "/" + kGolden).value(), read_artifact(folder.path()).value());
}

TEST(ArtifactRoundTrip, ShardsHoldTheSameTensorsAndThePromisedBytes) {
  const EditableArtifact artifact(kGolden);
  const Model golden = read_artifact(golden_folder() + "/" + kGolden).value();
  for (const uint64_t shard_bytes : {uint64_t{1}, uint64_t{5000}, uint64_t{40000}}) {
    const TemporaryFolder folder;
    artifact.save(folder.path(), shard_bytes);
    const auto model = read_artifact(folder.path());
    ASSERT_TRUE(model.has_value()) << model.error().message;
    expect_same_model(golden, *model);
    const Status verified = verify_artifact(folder.path());
    EXPECT_TRUE(verified.has_value()) << verified.error().message;
    EXPECT_EQ(weight_bytes(folder.path()), shards_size(plan_shards(artifact.pending_arrays(), shard_bytes)));
  }
}

TEST(ArtifactRoundTrip, IsPublishedUnderItsNameOnlyWhenComplete) {
  const TemporaryFolder folder;
  const std::string name = folder.path() + "/model/";
  EXPECT_EQ(partial_directory(name), folder.path() + "/model.partial");
  fs::create_directory(partial_directory(name));
  EditableArtifact(kGolden).save(partial_directory(name));
  EXPECT_FALSE(fs::exists(name));
  ASSERT_TRUE(publish(folder.path() + "/model").has_value());
  EXPECT_TRUE(read_artifact(folder.path() + "/model").has_value());
  EXPECT_FALSE(fs::exists(partial_directory(name)));
}

}  // namespace
}  // namespace tq
