// The tiny models as GGUF files, with llama.cpp's names, row order of queries and keys, and norms: the same logits as through Hugging Face.
#include <gmock/gmock.h>

#include "convert/family_fixture.h"

namespace tq {
namespace {

using namespace families_test;

template <typename T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}
std::string text(const std::string& value) { return raw(static_cast<uint64_t>(value.size())) + value; }

// A GGUF file, version 3. type: of a tensor, by its number; F32, or another of four bytes.
struct GgufFile {
  std::string fields, infos, data;
  uint64_t field_count = 0, tensor_count = 0;

  void add(const std::string& key, uint32_t value) { fields += text(key) + raw(uint32_t{4}) + raw(value), ++field_count; }
  void add(const std::string& key, float value) { fields += text(key) + raw(uint32_t{6}) + raw(value), ++field_count; }
  void add(const std::string& key, const std::string& value) { fields += text(key) + raw(uint32_t{8}) + text(value), ++field_count; }
  void add_tensor(const std::string& name, const Shape& shape, const std::vector<float>& values, uint32_t type = 0) {
    infos += text(name) + raw(static_cast<uint32_t>(shape.size()));
    for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) infos += raw(static_cast<uint64_t>(*dim));
    infos += raw(type) + raw(static_cast<uint64_t>(data.size()));
    data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    data.resize((data.size() + 31) / 32 * 32);
    ++tensor_count;
  }
  std::string bytes() const {
    std::string out = "GGUF" + raw(uint32_t{3}) + raw(tensor_count) + raw(field_count) + fields + infos;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data;
  }
};

std::string gguf_name(std::string name, const std::string& architecture) {
  const auto replace = [&](const std::string& from, const std::string& to) {
    if (const size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  };
  const bool is_gemma = architecture == "gemma3";
  replace("model.layers.", "blk.");
  for (const auto& [from, to] :
       std::vector<std::pair<const char*, const char*>>{{"model.embed_tokens", "token_embd"},
                                                        {"model.norm", "output_norm"},
                                                        {"lm_head", "output"},
                                                        {"input_layernorm", "attn_norm"},
                                                        {"post_attention_layernorm", is_gemma ? "post_attention_norm" : "ffn_norm"},
                                                        {"pre_feedforward_layernorm", "ffn_norm"},
                                                        {"post_feedforward_layernorm", "post_ffw_norm"},
                                                        {"self_attn.qkv_proj", "attn_qkv"},
                                                        {"self_attn.q_proj", "attn_q"},
                                                        {"self_attn.k_proj", "attn_k"},
                                                        {"self_attn.v_proj", "attn_v"},
                                                        {"self_attn.o_proj", "attn_output"},
                                                        {"self_attn.q_norm", "attn_q_norm"},
                                                        {"self_attn.k_norm", "attn_k_norm"},
                                                        {"mlp.gate_up_proj", "ffn_up"},
                                                        {"mlp.gate_proj", "ffn_gate"},
                                                        {"mlp.up_proj", "ffn_up"},
                                                        {"mlp.down_proj", "ffn_down"}})
    replace(from, to);
  return name;
}

// Row h d + s d / 2 + i of a head moves to h d + 2 i + s.
std::vector<float> interleave(const Weight& weight, int64_t head_dim) {
  const int64_t columns = weight.shape.size() == 1 ? 1 : weight.shape[1], half = head_dim / 2;
  std::vector<float> out(weight.values.size());
  for (int64_t row = 0; row < weight.shape[0]; ++row) {
    const int64_t inside = row % head_dim, to = row - inside + 2 * (inside % half) + inside / half;
    std::copy_n(weight.values.begin() + row * columns, columns, out.begin() + to * columns);
  }
  return out;
}

void add_fields(const Json& v4, const std::string& architecture, int64_t head_dim, GgufFile& file) {
  const auto number = [&](const char* key) { return v4[key].get<uint32_t>(); };
  const auto key = [&](const char* name) { return architecture + "." + name; };
  file.add("general.architecture", architecture);
  file.add(key("embedding_length"), number("hidden_size"));
  file.add(key("block_count"), number("num_hidden_layers"));
  file.add(key("feed_forward_length"), number("intermediate_size"));
  file.add(key("attention.head_count"), number("num_attention_heads"));
  file.add(key("attention.head_count_kv"), number("num_key_value_heads"));
  file.add(key("attention.key_length"), static_cast<uint32_t>(head_dim));
  file.add(key("context_length"), number("max_position_embeddings"));
  file.add(key("attention.layer_norm_rms_epsilon"), v4["rms_norm_eps"].get<float>());
  file.add(key("rope.freq_base"), v4["rope_theta"].get<float>());
  if (architecture == "gemma3") {
    file.add(key("attention.sliding_window"), number("sliding_window"));
    file.add(key("attention.sliding_window_pattern"), uint32_t{3});
  }
  const Json& rope = v4["rope_scaling"];
  if (!rope.is_object()) return;
  if (architecture == "phi3") {
    for (const char* kind : {"short", "long"}) {
      const auto factors = rope[std::string(kind) + "_factor"].get<std::vector<float>>();
      file.add_tensor(fmt::format("rope_factors_{}.weight", kind), {static_cast<int64_t>(factors.size())}, factors);
    }
    file.add(key("rope.scaling.original_context_length"), number("original_max_position_embeddings"));
  } else {
    file.add(key("rope.scaling.type"), std::string("linear"));
    file.add(key("rope.scaling.factor"), rope["factor"].get<float>());
  }
}

class ImportGguf : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(ImportGguf, GivesTheLogitsOfTheHuggingFaceDirectory) {
  const std::string architecture = GetParam().second;
  const Fixture fixture = load_fixture(GetParam().first);
  const Json& v4 = fixture.json["config_v4"];
  const int64_t derived = v4["hidden_size"].get<int64_t>() / v4["num_attention_heads"].get<int64_t>();
  const int64_t head_dim = v4.contains("head_dim") && v4["head_dim"].is_number() ? v4["head_dim"].get<int64_t>() : derived;
  GgufFile file;
  add_fields(v4, architecture, head_dim, file);
  for (Weight weight : fixture.weights) {
    if (architecture == "llama" && (weight.name.find("q_proj") != std::string::npos || weight.name.find("k_proj") != std::string::npos))
      weight.values = interleave(weight, head_dim);
    if (architecture == "gemma3" && weight.name.find("norm") != std::string::npos) {
      // GGUF has no field for query_pre_attn_scalar, whose fixture's value is not head_dim: the query norm takes the difference.
      const bool is_query = weight.name.find("q_norm") != std::string::npos;
      const float scale = is_query ? std::sqrt(static_cast<float>(head_dim) / v4["query_pre_attn_scalar"].get<float>()) : 1.0f;
      for (float& x : weight.values) x = (x + 1.0f) * scale;
    }
    file.add_tensor(gguf_name(weight.name, architecture), weight.shape, weight.values);
  }
  TemporaryDirectory directory;
  ASSERT_TRUE(write_file(directory / "model.gguf", file.bytes()));
  const auto model = load_model(directory / "model.gguf");
  ASSERT_TRUE(model.has_value()) << model.error().message;
  ThreadPool threads(2);
  const auto ref = make_ref_backend(threads);
  EXPECT_LT(error(run(*model, fixture, *ref, 48), fixture.logits), 2e-4);
}

std::string refusal_of(const GgufFile& file) {
  TemporaryDirectory directory;
  EXPECT_TRUE(write_file(directory / "model.gguf", file.bytes()));
  const auto model = load_model(directory / "model.gguf");
  if (model) return "no error";
  EXPECT_EQ(model.error().code, ErrorCode::kBadInput);
  return model.error().message;
}

TEST(GgufRope, FactorsAreNotReadForHeadsOfNoOrAnOddNumberOfDimensions) {
  for (const auto& [heads, key_length] : {std::pair{64u, -1}, {2u, 0}, {2u, 1}, {2u, 7}}) {
    GgufFile file;
    file.add("general.architecture", std::string("llama"));
    for (const auto& [key, value] : {std::pair{"llama.embedding_length", 32u},
                                     {"llama.block_count", 1u},
                                     {"llama.feed_forward_length", 64u},
                                     {"llama.attention.head_count", heads},
                                     {"llama.context_length", 128u}})
      file.add(key, value);
    if (key_length >= 0) file.add("llama.attention.key_length", static_cast<uint32_t>(key_length));
    file.add_tensor("token_embd.weight", {4, 32}, std::vector<float>(4 * 32));
    file.add_tensor("rope_freqs.weight", {key_length > 1 ? key_length / 2 : 0},
                    std::vector<float>(static_cast<size_t>(key_length > 1 ? key_length / 2 : 0)));
    EXPECT_THAT(refusal_of(file), testing::HasSubstr("dimensions")) << heads << " " << key_length;
  }
}

TEST(GgufTypes, WholeNumbersAreNoWeights) {
  constexpr uint32_t kI32 = 26;
  const Fixture fixture = load_fixture("qwen2");
  const Json& v4 = fixture.json["config_v4"];
  for (const char* changed : {"model.layers.1.mlp.up_proj.weight", "model.norm.weight"}) {
    GgufFile file;
    add_fields(v4, "qwen2", v4["hidden_size"].get<int64_t>() / v4["num_attention_heads"].get<int64_t>(), file);
    for (const Weight& weight : fixture.weights)
      file.add_tensor(gguf_name(weight.name, "qwen2"), weight.shape, weight.values, weight.name == changed ? kI32 : 0);
    EXPECT_THAT(refusal_of(file), testing::AllOf(testing::HasSubstr(changed), testing::HasSubstr("I32")));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ImportGguf,
                         testing::Values(std::pair{"llama2", "llama"}, std::pair{"llama_bias", "llama"}, std::pair{"smollm2", "llama"},
                                         std::pair{"qwen2", "qwen2"}, std::pair{"gemma3", "gemma3"}, std::pair{"phi3", "phi3"}),
                         [](const auto& each) { return std::string(each.param.first); });

}  // namespace
}  // namespace tq
