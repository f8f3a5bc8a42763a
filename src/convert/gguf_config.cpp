#include "convert/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "io/text.h"
#include "model/family.h"

namespace tq {
namespace {

constexpr int64_t kLarge = int64_t{1} << 28;
constexpr int64_t kMostLayers = 4096;  // before anything is listed layer by layer

// Keys of the architecture's section: "llama.context_length" by "context_length".
class Section {
 public:
  Section(const gguf::File& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}
  std::string key(std::string_view name) const { return fmt::format("{}.{}", prefix_, name); }
  bool has(std::string_view name) const { return file_.has(key(name)); }
  Result<int64_t> integer(std::string_view name) const { return file_.integer(key(name), 1, kLarge); }
  Result<int64_t> integer_or(std::string_view name, int64_t fallback) const { return file_.integer_or(key(name), fallback, 0, kLarge); }
  Result<double> number_or(std::string_view name, double fallback) const { return file_.number_or(key(name), fallback); }
  Result<std::string> string_or(std::string_view name, std::string_view fallback) const { return file_.string_or(key(name), fallback); }

  // A value, or an array of equal ones (a few converters write one per layer).
  Result<int64_t> uniform_or(std::string_view name, int64_t fallback) const {
    if (!has(name)) return fallback;
    TQ_ASSIGN(const std::vector<int64_t> values, file_.integers(key(name)));
    if (values.empty() || std::any_of(values.begin(), values.end(), [&](int64_t value) { return value != values[0]; }))
      return bad_input("{}: '{}' differs from layer to layer, which is not supported", file_.where(), key(name));
    return values[0];
  }

 private:
  const gguf::File& file_;
  std::string prefix_;
};

// head_dim: even, at least 2.
Result<Json> llama3_scaling(const gguf::File& file, const gguf::Tensor& factors, double theta, int64_t head_dim) {
  if (factors.type != 0 || element_count(factors.shape) != head_dim / 2)
    return bad_input("{}: rope_freqs should hold {} floats", file.where(), head_dim / 2);
  const auto* values = reinterpret_cast<const float*>(factors.data);
  const double factor = *std::max_element(values, values + head_dim / 2);
  // The file keeps the divisors alone. Llama 3.1 and 3.2 made them from these constants; anything else is refused below.
  constexpr double kLow = 1.0, kHigh = 4.0, kOriginal = 8192.0;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    const double smooth = std::clamp((kOriginal * frequency / (2 * std::numbers::pi) - kLow) / (kHigh - kLow), 0.0, 1.0);
    const double expected = 1.0 / ((1 - smooth) / factor + smooth);
    if (!(std::fabs(values[i] - expected) <= 1e-3 * expected))
      return bad_input("{}: rope_freqs are not those of Llama 3; convert the original Hugging Face directory instead", file.where());
  }
  return Json{{"rope_type", "llama3"},
              {"factor", factor},
              {"low_freq_factor", kLow},
              {"high_freq_factor", kHigh},
              {"original_max_position_embeddings", static_cast<int64_t>(kOriginal)}};
}

Result<Json> longrope_scaling(const gguf::File& file, const Section& section) {
  Json scaling = {{"type", "longrope"}};
  for (const auto& [tensor_name, key] :
       {std::pair{"rope_factors_long.weight", "long_factor"}, {"rope_factors_short.weight", "short_factor"}}) {
    const gguf::Tensor* tensor = file.find(tensor_name);
    if (!tensor || tensor->type != 0) return bad_input("{}: tensor {} is missing or not F32", file.where(), tensor_name);
    const auto* values = reinterpret_cast<const float*>(tensor->data);
    scaling[key] = std::vector<float>(values, values + element_count(tensor->shape));
  }
  TQ_ASSIGN(const int64_t original, section.integer_or("rope.scaling.original_context_length", 4096));
  scaling["original_max_position_embeddings"] = original;
  return scaling;
}

Status add_rope(const gguf::File& file, const Section& section, int64_t head_dim, Json& config) {
  const bool is_gemma = config["model_type"] == "gemma3_text";
  TQ_ASSIGN(const double theta, section.number_or("rope.freq_base", is_gemma ? 1e6 : 1e4));
  config["rope_theta"] = theta;
  if (is_gemma) {
    TQ_ASSIGN(const double local, section.number_or("rope.freq_base_swa", 1e4));
    config["rope_local_base_freq"] = local;
  }
  if (const gguf::Tensor* factors = file.find("rope_freqs.weight")) {
    TQ_ASSIGN(config["rope_scaling"], llama3_scaling(file, *factors, theta, head_dim));
    return {};
  }
  if (file.find("rope_factors_long.weight")) {
    TQ_ASSIGN(config["rope_scaling"], longrope_scaling(file, section));
    TQ_ASSIGN(const int64_t original, section.integer_or("rope.scaling.original_context_length", 4096));
    config["original_max_position_embeddings"] = original;
    return {};
  }
  TQ_ASSIGN(const std::string type, section.string_or("rope.scaling.type", "none"));
  TQ_ASSIGN(const double factor, section.number_or("rope.scaling.factor", 1.0));
  if (type == "none" || factor == 1.0) return {};
  if (type != "linear" && type != "yarn") return bad_input("{}: rope scaling '{}' is not supported", file.where(), shown(type));
  config["rope_scaling"] = {{"rope_type", type}, {"factor", factor}};
  if (type == "yarn") {
    TQ_ASSIGN(const int64_t original, section.integer_or("rope.scaling.original_context_length", 0));
    if (original > 0) config["rope_scaling"]["original_max_position_embeddings"] = original;
  }
  return {};
}

Status add_mixture(const Section& section, Json& config) {
  TQ_ASSIGN(const int64_t experts, section.integer_or("expert_count", 0));
  if (experts == 0) return {};
  TQ_ASSIGN(const int64_t used, section.integer_or("expert_used_count", 2));
  TQ_ASSIGN(const int64_t width, section.integer_or("expert_feed_forward_length", 0));
  config["num_local_experts"] = config["num_experts"] = experts;
  config["num_experts_per_tok"] = used;
  if (width > 0) config["moe_intermediate_size"] = width;
  if (config["model_type"] == "llama") config["model_type"] = "mixtral", config["architectures"] = {"MixtralForCausalLM"};
  if (config["model_type"] == "qwen3_moe") config["norm_topk_prob"] = true;
  return {};
}

Status add_gemma(const Section& section, int64_t head_dim, Json& config) {
  TQ_ASSIGN(const int64_t window, section.integer_or("attention.sliding_window", 512));
  TQ_ASSIGN(const int64_t pattern, section.uniform_or("attention.sliding_window_pattern", 6));
  config["sliding_window"] = window;
  Json types = Json::array();
  for (int64_t i = 0; i < config["num_hidden_layers"].get<int64_t>(); ++i)
    types.push_back((i + 1) % std::max<int64_t>(pattern, 1) == 0 ? "full_attention" : "sliding_attention");
  config["layer_types"] = types;
  // The 27B model alone divides its scores by hidden / heads; GGUF does not say so, its layer count does (62).
  const bool is_27b = config["num_hidden_layers"] == 62;
  config["query_pre_attn_scalar"] = is_27b ? config["hidden_size"].get<int64_t>() / config["num_attention_heads"].get<int64_t>() : head_dim;
  config["hidden_activation"] = "gelu_pytorch_tanh";
  TQ_ASSIGN(const double softcap, section.number_or("final_logit_softcapping", 0.0));
  if (softcap > 0) config["final_logit_softcapping"] = softcap;
  return {};
}

Status add_special_tokens(const gguf::File& file, Json& config) {
  for (const auto& [key, name] :
       {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"}, {"tokenizer.ggml.eos_token_id", "eos_token_id"}}) {
    TQ_ASSIGN(const int64_t id, file.integer_or(key, -1, -1, kLarge));
    if (id >= 0) config[name] = id;
  }
  return {};
}

}  // namespace

Result<Json> config_of_gguf(const gguf::File& file) {
  TQ_ASSIGN(const std::string architecture, file.string("general.architecture"));
  const Family* family = family_of_gguf(architecture);
  if (!family) {
    std::string known;
    for (const Family& each : families())
      if (known.find(each.gguf_architecture) == std::string::npos)
        known += fmt::format("{}{}", known.empty() ? "" : ", ", each.gguf_architecture);
    return bad_input("{}: architecture '{}' is not supported ({} are)", file.where(), shown(architecture), known);
  }
  const gguf::Tensor* embedding = file.find("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2) return bad_input("{}: tensor token_embd.weight is missing", file.where());
  const Section section(file, architecture);
  Json config = {{"architectures", Json::array({family->hf_architecture})}, {"model_type", family->hf_model_type}};
  TQ_ASSIGN(const int64_t hidden, section.integer("embedding_length"));
  TQ_ASSIGN(const int64_t layers, section.integer("block_count"));
  if (layers > kMostLayers) return bad_input("{}: '{}' is {}, more than {}", file.where(), section.key("block_count"), layers, kMostLayers);
  TQ_ASSIGN(const int64_t intermediate, section.uniform_or("feed_forward_length", 1));
  TQ_ASSIGN(const int64_t heads, section.uniform_or("attention.head_count", 0));
  TQ_ASSIGN(const int64_t kv_heads, section.uniform_or("attention.head_count_kv", heads));
  if (heads <= 0) return bad_input("{}: '{}' is missing", file.where(), section.key("attention.head_count"));
  TQ_ASSIGN(const int64_t head_dim, section.integer_or("attention.key_length", hidden / heads));
  if (head_dim < 2 || head_dim % 2 != 0)
    return bad_input("{}: the heads have {} dimensions, an even number from 2 on was expected", file.where(), head_dim);
  TQ_ASSIGN(const int64_t context, section.integer("context_length"));
  TQ_ASSIGN(const double epsilon, section.number_or("attention.layer_norm_rms_epsilon", 1e-6));
  config["hidden_size"] = hidden;
  config["intermediate_size"] = intermediate;
  config["num_hidden_layers"] = layers;
  config["num_attention_heads"] = heads;
  config["num_key_value_heads"] = kv_heads;
  config["head_dim"] = head_dim;
  config["max_position_embeddings"] = context;
  config["rms_norm_eps"] = static_cast<double>(static_cast<float>(epsilon));
  config["vocab_size"] = embedding->shape[0];
  config["tie_word_embeddings"] = file.find("output.weight") == nullptr;
  config["hidden_act"] = "silu";
  if (architecture == "llama") {
    config["attention_bias"] = file.find("blk.0.attn_q.bias") != nullptr;
    config["mlp_bias"] = file.find("blk.0.ffn_gate.bias") != nullptr;
  }
  TQ_TRY(add_rope(file, section, head_dim, config));
  TQ_TRY(add_mixture(section, config));
  if (config["model_type"] == "gemma3_text") TQ_TRY(add_gemma(section, head_dim, config));
  if (architecture == "phi3") {
    TQ_ASSIGN(const int64_t rotary, section.integer_or("rope.dimension_count", head_dim));
    TQ_ASSIGN(const int64_t window, section.integer_or("attention.sliding_window", 0));
    if (rotary != head_dim) config["partial_rotary_factor"] = static_cast<double>(rotary) / static_cast<double>(head_dim);
    if (window > 0) config["sliding_window"] = window;
  }
  TQ_TRY(add_special_tokens(file, config));
  return config;
}

}  // namespace tq
