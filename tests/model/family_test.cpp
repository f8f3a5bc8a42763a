#include "model/family.h"

#include <cmath>

#include <gmock/gmock.h>

#include "model/wrapper.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

Json small(const char* architecture) {
  return Json{{"architectures", {architecture}}, {"hidden_size", 64},        {"intermediate_size", 172}, {"num_hidden_layers", 2},
              {"num_attention_heads", 4},        {"num_key_value_heads", 2}, {"head_dim", 32},           {"vocab_size", 101},
              {"max_position_embeddings", 256},  {"rms_norm_eps", 1e-5}};
}

const Attention& attention(const ModelSpec& spec, size_t layer) { return std::get<Attention>(spec.layers.at(layer).at(0).op); }

TEST(ParseConfig, ReadsEveryFamilyWithHeadDimUnlikeHiddenOverHeads) {
  for (const Family& family : families()) {
    Json config = small(std::string(family.hf_architecture).c_str());
    config["moe_intermediate_size"] = 48;
    const auto spec = parse_config(config, "config.json");
    ASSERT_TRUE(spec.has_value()) << family.name << ": " << spec.error().message;
    EXPECT_EQ(spec->family, family.name);
    EXPECT_EQ(spec->layers.size(), 2u);
    EXPECT_EQ(attention(*spec, 0).output.in, 4 * 32);
    EXPECT_EQ(attention(*spec, 1).output.name, "model.layers.1.self_attn.o_proj");
  }
}

TEST(ParseConfig, FindsTheFamilyByModelTypeWhenNoArchitectureIsNamed) {
  Json config = small("x");
  config.erase("architectures");
  config["model_type"] = "qwen2";
  const auto spec = parse_config(config, "config.json");
  ASSERT_TRUE(spec.has_value());
  EXPECT_TRUE(attention(*spec, 0).qkv.at(0).bias);
}

// Published files of multimodal models leave out what is the default of their reader.
TEST(ParseConfig, OfAMultimodalModelIsThatOfItsLanguageModel) {
  const Json config = {{"architectures", {"Gemma3ForConditionalGeneration"}},
                       {"model_type", "gemma3"},
                       {"eos_token_id", {1, 106}},
                       {"text_config",
                        {{"hidden_size", 2560},
                         {"intermediate_size", 10240},
                         {"model_type", "gemma3_text"},
                         {"num_hidden_layers", 34},
                         {"rope_scaling", {{"factor", 8.0}, {"rope_type", "linear"}}},
                         {"sliding_window", 1024}}},
                       {"vision_config", {{"hidden_size", 1152}}}};
  const Json own = language_config(config);
  EXPECT_EQ(own["eos_token_id"], (Json{1, 106}));
  const auto spec = parse_config(own, "config.json");
  ASSERT_TRUE(spec.has_value()) << spec.error().message;
  EXPECT_EQ(spec->family, "gemma3");
  EXPECT_TRUE(spec->tied);
  EXPECT_EQ(spec->vocabulary, 262208);
  EXPECT_EQ(spec->context, 131072);
  EXPECT_EQ(attention(*spec, 0).window, 1024);
  EXPECT_EQ(attention(*spec, 5).window, 0);
  EXPECT_EQ(attention(*spec, 5).heads, 8);
  EXPECT_EQ(attention(*spec, 5).kv_heads, 4);
  Json unknown = config;
  unknown["text_config"]["model_type"] = "mamba";
  EXPECT_EQ(language_config(unknown), unknown);
}

TEST(ParseConfig, AMixtureHasTheActivationOfTheConfiguration) {
  for (const char* architecture : {"MixtralForCausalLM", "Qwen3MoeForCausalLM"}) {
    Json config = small(architecture);
    config["moe_intermediate_size"] = 48;
    for (const auto& [name, activation] :
         {std::pair{"silu", Activation::kSilu}, {"gelu", Activation::kGelu}, {"gelu_pytorch_tanh", Activation::kGeluTanh}}) {
      config["hidden_act"] = name;
      const auto spec = parse_config(config, "config.json");
      ASSERT_TRUE(spec.has_value()) << spec.error().message;
      EXPECT_EQ(std::get<Moe>(spec->layers.at(1).at(1).op).activation, activation) << architecture << " " << name;
    }
  }
}

TEST(ParseConfig, NamesWhatItDoesNotKnow) {
  const auto spec = parse_config(small("MambaForCausalLM"), "dir/config.json");
  ASSERT_FALSE(spec.has_value());
  EXPECT_EQ(spec.error().code, ErrorCode::kBadInput);
  EXPECT_THAT(spec.error().message, HasSubstr("dir/config.json"));
  EXPECT_THAT(spec.error().message, HasSubstr("MambaForCausalLM"));
}

TEST(ParseConfig, RefusesEveryMissingOrAbsurdDimension) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    Json config = small("LlamaForCausalLM");
    config.erase(key);
    EXPECT_FALSE(parse_config(config, "c").has_value()) << key;
    for (const Json& bad : {Json(0), Json(-1), Json("7"), Json(1.5), Json(uint64_t{1} << 63)}) {
      config[key] = bad;
      EXPECT_FALSE(parse_config(config, "c").has_value()) << key << " " << bad.dump();
    }
  }
  Json config = small("LlamaForCausalLM");
  config["num_key_value_heads"] = 3;
  EXPECT_FALSE(parse_config(config, "c").has_value());
}

TEST(ParseConfig, RefusesHeadsThatWouldFillTheMemory) {
  Json config = small("LlamaForCausalLM");
  config["num_hidden_layers"] = 4096;
  config["num_attention_heads"] = config["num_key_value_heads"] = 1;
  config["head_dim"] = 65536;
  EXPECT_FALSE(parse_config(config, "c").has_value());
  config.erase("head_dim");
  config["hidden_size"] = 1 << 24;
  const auto spec = parse_config(config, "c");
  ASSERT_FALSE(spec.has_value());
  EXPECT_THAT(spec.error().message, HasSubstr("too wide"));
}

TEST(ParseConfig, GemmaAlternatesWindowsAndRopeBases) {
  Json config = small("Gemma3ForCausalLM");
  config["num_hidden_layers"] = 7;
  config["sliding_window"] = 16;
  config["rope_local_base_freq"] = 10000.0;
  const auto spec = parse_config(config, "c");
  ASSERT_TRUE(spec.has_value());
  EXPECT_TRUE(spec->tied);
  EXPECT_EQ(spec->norm_offset, 1.0f);
  EXPECT_EQ(spec->embed_scale, 8.0f);
  EXPECT_EQ(attention(*spec, 0).window, 16);
  EXPECT_EQ(attention(*spec, 5).window, 0);
  EXPECT_GT(attention(*spec, 0).rope.inv_freq[1], attention(*spec, 5).rope.inv_freq[1]);
}

TEST(Rope, BothSpellingsGiveTheSameFrequencies) {
  Json v4 = small("LlamaForCausalLM");
  v4["rope_theta"] = 500000.0;
  v4["rope_scaling"] = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 64}};
  Json v5 = small("LlamaForCausalLM");
  v5["rope_parameters"] = v4["rope_scaling"];
  v5["rope_parameters"]["rope_theta"] = 500000.0;
  const auto first = parse_config(v4, "c");
  const auto second = parse_config(v5, "c");
  ASSERT_TRUE(first && second);
  EXPECT_EQ(attention(*first, 0).rope.inv_freq, attention(*second, 0).rope.inv_freq);
}

TEST(Rope, Llama3KeepsShortWavesAndDividesLongOnes) {
  Json config = small("LlamaForCausalLM");
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 64}};
  const auto spec = parse_config(config, "c");
  ASSERT_TRUE(spec.has_value());
  const auto& frequencies = attention(*spec, 0).rope.inv_freq;
  ASSERT_EQ(frequencies.size(), 16u);
  EXPECT_FLOAT_EQ(frequencies.front(), 1.0f);
  EXPECT_FLOAT_EQ(frequencies.back(), static_cast<float>(std::pow(10000.0, -30.0 / 32.0) / 8.0));
}

TEST(Rope, LongropeCarriesBothTables) {
  Json config = small("Phi3ForCausalLM");
  config["head_dim"] = 4;
  config["max_position_embeddings"] = 4096;
  config["original_max_position_embeddings"] = 1024;
  config["rope_scaling"] = {{"type", "longrope"}, {"short_factor", {1.0, 2.0}}, {"long_factor", {4.0, 8.0}}};
  const auto spec = parse_config(config, "c");
  ASSERT_TRUE(spec.has_value()) << spec.error().message;
  const Rope& rope = attention(*spec, 0).rope;
  EXPECT_FLOAT_EQ(rope.inv_freq[1], 0.01f / 2);
  EXPECT_FLOAT_EQ(rope.long_inv_freq[1], 0.01f / 8);
  EXPECT_EQ(rope.original_context, 1024);
  EXPECT_FLOAT_EQ(rope.magnitude, static_cast<float>(std::sqrt(1 + std::log(4.0) / std::log(1024.0))));
}

TEST(Rope, RefusesUnknownTypesByName) {
  Json config = small("LlamaForCausalLM");
  config["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 2.0}};
  const auto spec = parse_config(config, "c");
  ASSERT_FALSE(spec.has_value());
  EXPECT_THAT(spec.error().message, HasSubstr("dynamic"));
}

}  // namespace
}  // namespace tq
