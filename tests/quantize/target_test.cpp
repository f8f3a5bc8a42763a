#include "quantize/target.h"

#include <gmock/gmock.h>

#include "quantize/budget.h"
#include "quantize/job.h"

namespace tq {
namespace {

Json dense() {
  return {{"architectures", {"Qwen2ForCausalLM"}},
          {"hidden_size", 96},
          {"intermediate_size", 200},
          {"num_hidden_layers", 6},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 300},
          {"rms_norm_eps", 1e-5},
          {"max_position_embeddings", 512}};
}

Json mixture() {
  Json config = dense();
  config["architectures"] = {"Qwen3MoeForCausalLM"};
  config["num_experts"] = 4, config["num_experts_per_tok"] = 2, config["moe_intermediate_size"] = 64, config["head_dim"] = 24;
  config["norm_topk_prob"] = true, config["decoder_sparse_step"] = 1, config["mlp_only_layers"] = Json::array();
  return config;
}

std::vector<std::vector<std::string>> names(const Model& model, Target target) {
  const std::vector<const Linear*> all = rated_linears(model.spec);
  std::vector<std::vector<std::string>> out;
  for (const std::vector<size_t>& group : ties(all, target)) {
    out.emplace_back();
    for (const size_t i : group) out.back().push_back(all[i]->name);
  }
  return out;
}

TEST(Target, VllmTiesWhatItFuses) {
  const auto groups = names(*shapes_of(dense(), "config.json"), Target::kVllm);
  ASSERT_EQ(groups.size(), 6u * 4);
  const std::string attention = "model.layers.0.self_attn.", mlp = "model.layers.0.mlp.";
  EXPECT_EQ(groups[0], (std::vector<std::string>{attention + "q_proj", attention + "k_proj", attention + "v_proj"}));
  EXPECT_EQ(groups[1], (std::vector<std::string>{attention + "o_proj"}));
  EXPECT_EQ(groups[2], (std::vector<std::string>{mlp + "gate_proj", mlp + "up_proj"}));
  EXPECT_EQ(groups[3], (std::vector<std::string>{mlp + "down_proj"}));
  EXPECT_EQ(groups, names(*shapes_of(dense(), "config.json"), Target::kSglang));
}

TEST(Target, VllmTiesAllExpertsOfALayer) {
  const auto groups = names(*shapes_of(mixture(), "config.json"), Target::kVllm);
  ASSERT_EQ(groups.size(), 6u * 3);
  EXPECT_EQ(groups[2].size(), 3u);  // gate, up and down, each a stack
}

TEST(Target, GgufHasATypeForEachTensor) {
  for (const Target target : {Target::kGguf, Target::kNone})
    for (const auto& group : names(*shapes_of(dense(), "config.json"), target)) EXPECT_EQ(group.size(), 1u);
}

TEST(Target, RatesOfAPlanAreWholeAndSharedAndNeverExceedTheBits) {
  const Model model = *shapes_of(dense(), "config.json");
  for (const Target target : {Target::kGguf, Target::kVllm})
    for (const double bits : {2.0, 2.5, 3.25, 7.9}) {
      QuantizeOptions options;
      options.bits = bits, options.target = target;
      const QuantizePlan plan = *make_plan(model, options);
      std::vector<const TensorPlan*> tensors;
      std::vector<const Linear*> all;
      for (const auto& layer : plan.layers)
        for (const TensorPlan& tensor : layer) tensors.push_back(&tensor), all.push_back(&tensor.linear);
      for (const std::vector<size_t>& group : ties(all, target))
        for (const size_t i : group)
          EXPECT_EQ(tensors[i]->rates, Rates(tensors[i]->rates.size(), tensors[group[0]]->rates[0])) << tensors[i]->linear.name;
      EXPECT_LE(mean_bits(plan).code, bits * (1 + 1e-9));
      EXPECT_GT(mean_bits(plan).code, bits - 0.15) << "less than the largest group is left over";
    }
}

TEST(Target, ASizeIsKeptWithTiesToo) {
  const Model model = *shapes_of(dense(), "config.json");
  QuantizeOptions options;
  options.target = Target::kVllm, options.bits = 3.6;
  const uint64_t bytes = planned_bytes(model, *make_plan(model, options));
  const auto fitted = fit_bits(model, options, bytes + 5000);
  ASSERT_TRUE(fitted) << fitted.error().message;
  EXPECT_LE(planned_bytes(model, *make_plan(model, *fitted)), bytes + 5000);
  EXPECT_GE(mean_bits(*make_plan(model, *fitted)).code, mean_bits(*make_plan(model, options)).code - 1e-9);
}

TEST(Target, RatesOfTheUsersMustKeepTheTies) {
  const Model model = *shapes_of(dense(), "config.json");
  QuantizeOptions options;
  options.target = Target::kVllm;
  options.rates = {{"model.layers.1.self_attn.v_proj", 5}};
  const auto torn = make_plan(model, options);
  ASSERT_FALSE(torn.has_value());
  EXPECT_EQ(torn.error().code, ErrorCode::kUsage);
  EXPECT_THAT(torn.error().message, testing::HasSubstr("model.layers.1.self_attn.v_proj"));
  options.rates = {{"model.layers.1.mlp.down_proj", 3.5}};
  EXPECT_THAT(make_plan(model, options).error().message, testing::HasSubstr("whole rate for model.layers.1.mlp.down_proj"));
  options.rates = {{"model.layers.1.mlp.down_proj", 5}};
  EXPECT_TRUE(make_plan(model, options).has_value());
}

}  // namespace
}  // namespace tq
