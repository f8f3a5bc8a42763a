// Hugging Face directories: spellings of experts, and what wrong files are told.
#include <gmock/gmock.h>

#include "convert/family_fixture.h"

namespace tq {
namespace {

using namespace families_test;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// The spelling of one tensor [E, 2 I, H] for gate and up and one [E, H, I] for down.
std::vector<Weight> fuse_experts(const std::vector<Weight>& separate) {
  std::map<std::string, const Weight*> by_name;
  std::vector<Weight> out;
  for (const Weight& weight : separate) {
    by_name[weight.name] = &weight;
    if (weight.name.find(".experts.") == std::string::npos) out.push_back(weight);
  }
  for (const Weight& first : separate) {
    const size_t at = first.name.find(".experts.0.");
    const bool letters = first.name.ends_with(".w1.weight");
    if (at == std::string::npos || !(letters || first.name.ends_with(".gate_proj.weight"))) continue;
    const std::string prefix = first.name.substr(0, at + 9);
    Weight gate_up{prefix + "gate_up_proj", {0, 2 * first.shape[0], first.shape[1]}, {}};
    Weight down{prefix + "down_proj", {0, first.shape[1], first.shape[0]}, {}};
    const auto append = [&](Weight& to, int64_t e, const char* name) {
      const auto found = by_name.find(fmt::format("{}{}.{}.weight", prefix, e, name));
      if (found == by_name.end()) return false;
      to.values.insert(to.values.end(), found->second->values.begin(), found->second->values.end());
      return true;
    };
    for (int64_t e = 0; append(gate_up, e, letters ? "w1" : "gate_proj"); ++e) {
      EXPECT_TRUE(append(gate_up, e, letters ? "w3" : "up_proj") && append(down, e, letters ? "w2" : "down_proj"));
      gate_up.shape[0] = down.shape[0] = e + 1;
    }
    out.push_back(std::move(gate_up));
    out.push_back(std::move(down));
  }
  return out;
}

TEST(ImportHf, ReadsSeparateAndFusedExpertsAlike) {
  ThreadPool threads(2);
  const auto ref = make_ref_backend(threads);
  for (const char* name : {"mixtral", "qwen3_moe"}) {
    const Fixture fixture = load_fixture(name);
    const std::vector<Weight> fused = fuse_experts(fixture.weights);
    ASSERT_LT(fused.size(), fixture.weights.size());
    TemporaryDirectory directory;
    write_hf(fused, fixture.json["config"], DType::kBF16, 1 << 30, directory / "fused");
    const auto model = load_model(directory / "fused");
    ASSERT_TRUE(model.has_value()) << model.error().message;
    EXPECT_LT(error(run(*model, fixture, *ref, 48), fixture.logits), 2e-4) << name;
  }
}

// The language model of a multimodal one, in the spellings of transformers v4 and v5, beside tensors that are none of its.
TEST(ImportHf, ReadsTheLanguageModelOfAMultimodalOne) {
  ThreadPool threads(2);
  const auto ref = make_ref_backend(threads);
  const Fixture fixture = load_fixture("gemma3");
  Json text = fixture.json["config"];
  text.erase("architectures");
  const Json config = {{"architectures", {"Gemma3ForConditionalGeneration"}},
                       {"model_type", "gemma3"},
                       {"eos_token_id", {1, 106}},
                       {"text_config", text},
                       {"vision_config", {{"hidden_size", 1152}}}};
  for (const std::string prefix : {"language_model.model.", "model.language_model."}) {
    std::vector<Weight> weights = fixture.weights;
    for (Weight& weight : weights) weight.name = prefix + weight.name.substr(6);  // model.
    weights.push_back({"vision_tower.embeddings.weight", {3, 5}, std::vector<float>(15)});
    TemporaryDirectory directory;
    write_hf(weights, config, DType::kF32, 1 << 30, directory / "wrapped");
    const auto model = load_model(directory / "wrapped");
    ASSERT_TRUE(model.has_value()) << model.error().message;
    EXPECT_EQ(model->config["architectures"][0], "Gemma3ForCausalLM");
    EXPECT_LT(error(run(*model, fixture, *ref, 48), fixture.logits), 2e-4) << prefix;
  }
}

std::string message_of(const std::vector<Weight>& weights, const Json& config, DType dtype = DType::kF32) {
  TemporaryDirectory directory;
  write_hf(weights, config, dtype, 1 << 30, directory / "model");
  const auto model = load_model(directory / "model");
  if (model) return "no error";
  EXPECT_EQ(model.error().code, ErrorCode::kBadInput);
  EXPECT_THAT(model.error().message, Not(HasSubstr("\n")));
  return model.error().message;
}

TEST(ImportHf, NamesTheMissingTensor) {
  const Fixture fixture = load_fixture("llama2");
  for (size_t i = 0; i < fixture.weights.size(); ++i) {
    std::vector<Weight> fewer = fixture.weights;
    fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_THAT(message_of(fewer, fixture.json["config"]), AllOf(HasSubstr(fixture.weights[i].name), HasSubstr("missing")));
  }
}

TEST(ImportHf, NamesTheTensorOfAWrongShape) {
  const Fixture fixture = load_fixture("qwen2");
  std::vector<Weight> wrong = fixture.weights;
  std::swap(wrong[2].shape.front(), wrong[2].shape.back());
  wrong[2].shape.push_back(1);
  EXPECT_THAT(message_of(wrong, fixture.json["config"]), AllOf(HasSubstr(wrong[2].name), HasSubstr("shape")));
}

TEST(ImportHf, TakesNoWholeNumbersForWeights) {
  for (const char* name : {"llama2", "mixtral"}) {
    const Fixture fixture = load_fixture(name);
    for (const DType dtype : {DType::kI16, DType::kU16})
      EXPECT_THAT(message_of(fixture.weights, fixture.json["config"], dtype),
                  AllOf(HasSubstr("model.embed_tokens.weight"), HasSubstr(std::string(dtype_name(dtype))), HasSubstr("floating")));
  }
}

TEST(ImportHf, NamesTheUnknownArchitecture) {
  const Fixture fixture = load_fixture("llama2");
  Json config = fixture.json["config"];
  config["architectures"] = {"MambaForCausalLM"};
  EXPECT_THAT(message_of(fixture.weights, config), AllOf(HasSubstr("MambaForCausalLM"), HasSubstr("LlamaForCausalLM")));
}

TEST(ImportHf, RefusesExpertsThatAreIncomplete) {
  const Fixture fixture = load_fixture("mixtral");
  std::vector<Weight> fewer = fixture.weights;
  std::erase_if(fewer, [](const Weight& weight) { return weight.name.find(".experts.3.") != std::string::npos; });
  EXPECT_THAT(message_of(fewer, fixture.json["config"]), HasSubstr("experts"));
}

}  // namespace
}  // namespace tq
