#include "quantize/plan.h"

#include <cstring>

#include <gmock/gmock.h>

#include "base/float16.h"
#include "quantize/budget.h"
#include "quantize/job.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

Model shapes(int64_t intermediate = 128) {
  return *shapes_of({{"architectures", {"LlamaForCausalLM"}},
                     {"hidden_size", 64},
                     {"intermediate_size", intermediate},
                     {"num_hidden_layers", 1},
                     {"num_attention_heads", 4},
                     {"num_key_value_heads", 2},
                     {"vocab_size", 96},
                     {"rms_norm_eps", 1e-5},
                     {"max_position_embeddings", 512}},
                    "config.json");
}

TEST(Plan, PassesAreRefusedWhereAMethodRoundsEachColumnOnce) {
  const Model model = shapes();
  QuantizeOptions options;
  options.passes = 2;
  EXPECT_TRUE(make_plan(model, options).has_value());
  for (const Method method : {Method::kRtn, Method::kGptq, Method::kAwq, Method::kQuip}) {
    options.method = method, options.passes = 0;
    EXPECT_TRUE(make_plan(model, options).has_value()) << method_name(method);
    options.passes = 1;
    const auto refused = make_plan(model, options);
    ASSERT_FALSE(refused.has_value()) << method_name(method);
    EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
    EXPECT_THAT(refused.error().message, HasSubstr("--passes 1"));
    EXPECT_THAT(refused.error().message, HasSubstr(std::string(method_name(method))));
  }
}

TEST(Plan, MeanBitsAreThoseOfThePlaneRowsWithoutTheirPadding) {
  const Model model = shapes(100);  // rows that fill no range of 32
  QuantizeOptions options;
  options.bits = 2.5;
  const QuantizePlan plan = *make_plan(model, options);
  double bits = 0, weights = 0;
  for (const TensorPlan& tensor : plan.layers[0]) {
    for (const int64_t rows : plane_rows(tensor)) bits += static_cast<double>(rows * tensor.linear.in);
    weights += weights_of(tensor.linear);
  }
  EXPECT_NEAR(mean_bits(plan).code, bits / weights, 1e-12);
  EXPECT_GT(mean_bits(plan).stored, mean_bits(plan).code);
  options.bits = 3;
  for (const Method method : {Method::kRtn, Method::kGptq, Method::kAwq, Method::kQuip}) {
    options.method = method;
    EXPECT_EQ(mean_bits(*make_plan(shapes(), options)).code, 3) << method_name(method);
  }
}

TEST(Plan, TheCardsTitleHasFourDigitsOfTheBits) {
  const Model model = shapes();
  QuantizeOptions options;
  for (const auto& [bits, title] : {std::pair(2.978401184082031, ", 2.978 bits\n"), std::pair(3.0, ", 3 bits\n")}) {
    options.bits = bits;
    EXPECT_THAT(make_plan(model, options)->texts.at("README.md"), HasSubstr(title));
  }
}

// Blocks of 32 bytes with a half in front, all values `value`.
PackedTensor blocks_of(Shape shape, float value) {
  const uint16_t scale = float_to_f16(value / 64);
  auto bytes = std::make_shared<std::vector<uint8_t>>(static_cast<size_t>(element_count(shape) / 32 * 34), uint8_t{64});
  for (size_t at = 0; at < bytes->size(); at += 34) std::memcpy(bytes->data() + at, &scale, sizeof(scale));
  PackedTensor tensor;
  tensor.codec = CodecId::kGgml;
  tensor.variant = 8;  // Q8_0
  tensor.shape = std::move(shape);
  tensor.parts.push_back(
      {"blocks", {DType::kU8, {static_cast<int64_t>(bytes->size())}, reinterpret_cast<const std::byte*>(bytes->data())}});
  tensor.owner = bytes;
  return tensor;
}

// A GGUF file's matrices are kept as halves, which end at 65504.
TEST(Plan, AKeptMatrixThatHalvesCannotHoldIsFoundBeforeAnythingIsRounded) {
  Model model = shapes();
  for (auto& [name, tensor] : model.tensors) {
    auto zeros = Buffer<float>::uninitialized(static_cast<size_t>(element_count(tensor.shape)));
    std::fill(zeros.begin(), zeros.end(), 0.0f);
    tensor = plain_tensor(tensor.shape, std::move(zeros));
  }
  QuantizeOptions options;
  options.embedding_bits = 0;
  const QuantizePlan plan = *make_plan(model, options);
  const std::string name = "model.embed_tokens.weight";
  for (const auto& [value, is_refused] : {std::pair{60000.0f, false}, {70000.0f, true}}) {
    model.tensors[name] = blocks_of(model.find(name)->shape, value);
    const Status kept = check_kept(model, plan);
    EXPECT_EQ(kept.has_value(), !is_refused) << value;
    if (kept) continue;
    EXPECT_EQ(kept.error().code, ErrorCode::kBadInput);
    EXPECT_THAT(kept.error().message, HasSubstr(name));
    options.embedding_bits = 6;
    EXPECT_TRUE(check_kept(model, *make_plan(model, options)).has_value()) << "it is quantized";
  }
}

// The arrays have 16 bits for the columns of a group and for a place in the order.
TEST(Plan, MatricesTooWideForTheCodecAreNotPlanned) {
  const auto refusal = [](int64_t columns, Method method, int64_t group) -> std::string {
    const Model model = shapes(columns);
    QuantizeOptions options;
    options.method = method, options.group = group;
    const auto plan = make_plan(model, options);
    if (plan) return "";
    EXPECT_EQ(plan.error().code, ErrorCode::kUsage);
    return plan.error().message;
  };
  EXPECT_EQ(refusal(65535, Method::kRtn, 0), "");
  EXPECT_THAT(refusal(65536, Method::kRtn, 0), HasSubstr("--group 0"));
  EXPECT_EQ(refusal(131072, Method::kRtn, 128), "");
  EXPECT_EQ(refusal(65536, Method::kGptq, 128), "");
  EXPECT_THAT(refusal(65664, Method::kGptq, 128), HasSubstr("--act-order off"));
  EXPECT_EQ(refusal(65664, Method::kAwq, 128), "");
}

}  // namespace
}  // namespace tq
