// What of a model is looked at before a layer of it is rounded.
#include "graph/weights.h"

#include <cmath>
#include <cstring>

#include <gmock/gmock.h>

#include "base/float16.h"
#include "convert/family_fixture.h"

namespace tq {
namespace {

using namespace families_test;
using testing::HasSubstr;

constexpr int64_t kRows = 3000, kColumns = 64;  // several bands
constexpr size_t kCount = kRows * kColumns;

// A model without layers, whose head is its embedding.
Model tables_alone(PackedTensor embedding) {
  Model model;
  model.source = "tables";
  model.spec.vocabulary = kRows, model.spec.hidden = kColumns;
  model.spec.embedding = "embedding", model.spec.tied = true;
  model.spec.final_norm = {.name = "norm", .width = kColumns};
  model.tensors["norm.weight"] = plain_tensor({kColumns}, Buffer<float>(kColumns));
  model.tensors["embedding.weight"] = std::move(embedding);
  return model;
}

template <typename T>
PackedTensor tensor_of(CodecId codec, uint32_t variant, const char* part, TensorView view, std::shared_ptr<std::vector<T>> values) {
  view.data = reinterpret_cast<const std::byte*>(values->data());
  PackedTensor tensor{.codec = codec, .variant = variant, .shape = {kRows, kColumns}, .parts = {{part, view}}};
  tensor.owner = std::move(values);
  return tensor;
}

// Zeros but for one value.
PackedTensor floats(size_t index, float value) {
  auto values = std::make_shared<std::vector<float>>(kCount);
  (*values)[index] = value;
  return tensor_of(CodecId::kPlain, 0, "weight", {DType::kF32, {kRows, kColumns}}, values);
}
PackedTensor halves(DType dtype, size_t index, float value) {
  auto values = std::make_shared<std::vector<uint16_t>>(kCount);
  (*values)[index] = dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
  return tensor_of(CodecId::kPlain, 0, "weight", {dtype, {kRows, kColumns}}, values);
}
// Blocks of 32 bytes with a half in front (Q8_0); one of the halves is `value`.
PackedTensor blocks(size_t index, float value) {
  constexpr size_t kBlock = 34;
  auto bytes = std::make_shared<std::vector<uint8_t>>(kCount / 32 * kBlock, uint8_t{1});
  const uint16_t scale = float_to_f16(value);
  std::memcpy(bytes->data() + index / 32 * kBlock, &scale, sizeof(scale));
  return tensor_of(CodecId::kGgml, 8, "blocks", {DType::kU8, {static_cast<int64_t>(bytes->size())}}, bytes);
}

TEST(CheckTables, FindsOneValueThatIsNoFiniteNumberHoweverItIsStored) {
  ThreadPool threads(3);
  const auto is_refused = [&](PackedTensor embedding) {
    const Status status = check_tables(tables_alone(std::move(embedding)), threads);
    if (!status) EXPECT_THAT(status.error().message, HasSubstr("tables: tensor embedding.weight holds values that are no finite numbers"));
    return !status.has_value();
  };
  for (const size_t index : {size_t{0}, kCount / 2 + 1, kCount - 1}) {
    for (const float value : {std::nanf(""), INFINITY, -INFINITY}) {
      EXPECT_TRUE(is_refused(floats(index, value))) << index;
      EXPECT_TRUE(is_refused(halves(DType::kBF16, index, value))) << index;
      EXPECT_TRUE(is_refused(halves(DType::kF16, index, value))) << index;
      EXPECT_TRUE(is_refused(blocks(index, value))) << index;
    }
    EXPECT_FALSE(is_refused(floats(index, 1e38f)));
    EXPECT_FALSE(is_refused(halves(DType::kBF16, index, 1e38f)));
    EXPECT_FALSE(is_refused(halves(DType::kF16, index, 6e4f)));
    EXPECT_FALSE(is_refused(blocks(index, 6e4f)));
  }
}

TEST(CheckTables, AreAllThatIsNotRoundedInALayer) {
  ThreadPool threads(2);
  for (const char* name : {"llama_bias", "mixtral", "qwen3"}) {
    const Fixture fixture = load_fixture(name);
    const TemporaryDirectory directory;
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    Model model = read(load_model(directory / "model"));
    ASSERT_TRUE(check_tables(model, threads).has_value()) << name;
    for (const WantedTensor& wanted : wanted_tensors(model.spec)) {
      PackedTensor& tensor = model.tensors.at(wanted.name);
      const PackedTensor sound = tensor;
      Buffer<float> values = decode(sound);
      values[values.size() - 1] = NAN;
      tensor = plain_tensor(sound.shape, std::move(values));
      const bool is_bias = wanted.name.ends_with(".bias"), is_router = wanted.name.ends_with(".gate.weight");
      const bool is_rounded = wanted.name.starts_with("model.layers.") && wanted.shape.size() > 1 && !is_bias && !is_router;
      const Status status = check_tables(model, threads);
      EXPECT_EQ(status.has_value(), is_rounded) << wanted.name;
      if (!status) EXPECT_THAT(status.error().message, HasSubstr(model.source + ": tensor " + wanted.name + " holds")) << name;
      tensor = sound;
    }
  }
}

}  // namespace
}  // namespace tq
