// Qwen2 and 2.5 (biases on q, k, v), Qwen3 (head norms), Qwen3-MoE.
#include "model/family/decoder.h"

namespace tq {
namespace {

// Layers from max_window_layers on slide, when use_sliding_window is set; "layer_types" says it layer by layer in newer files.
Result<int64_t> window_of_layer(const JsonReader& config, int64_t layer) {
  TQ_ASSIGN(const bool use, config.boolean_or("use_sliding_window", false));
  if (!use) return 0;
  TQ_ASSIGN(const int64_t window, config.integer_or("sliding_window", 0, 0, int64_t{1} << 28));
  if (const Json* types = config.find("layer_types"); types && types->is_array() && static_cast<size_t>(layer) < types->size())
    return (*types)[static_cast<size_t>(layer)] == "sliding_attention" ? window : 0;
  TQ_ASSIGN(const int64_t first, config.integer_or("max_window_layers", 28, 0, 1 << 20));
  return layer >= first ? window : 0;
}

Result<ModelSpec> parse_qwen(const JsonReader& config, DecoderTraits traits, bool experts) {
  ModelSpec spec;
  TQ_ASSIGN(traits.activation, read_activation(config, "silu"));
  TQ_ASSIGN(const DecoderDims dims, read_dims(config, traits, &spec));
  TQ_ASSIGN(const Rope rope, parse_rope(config, {.rotary_dim = dims.head_dim, .default_theta = 10000.0, .context = spec.context}));
  MoeTraits moe{.normalize_weights = false, .prefix = "mlp"};
  if (experts) {
    // transformers v5 writes Mixtral's name of the number.
    TQ_ASSIGN(const int64_t local_experts, config.integer_or("num_local_experts", 128, 1, 4096));
    TQ_ASSIGN(moe.experts, config.integer_or("num_experts", local_experts, 1, 4096));
    TQ_ASSIGN(moe.experts_per_token, config.integer_or("num_experts_per_tok", 8, 1, moe.experts));
    TQ_ASSIGN(moe.intermediate, config.integer("moe_intermediate_size", 1, int64_t{1} << 24));
    TQ_ASSIGN(moe.normalize_weights, config.boolean_or("norm_topk_prob", false));
  }
  TQ_ASSIGN(const int64_t step, config.integer_or("decoder_sparse_step", 1, 1, 1 << 20));
  const Json* dense = config.find("mlp_only_layers");
  for (int64_t i = 0; i < dims.layers; ++i) {
    bool sparse = experts && (i + 1) % step == 0;
    if (dense && dense->is_array())
      for (const Json& layer : *dense) sparse = sparse && layer != i;
    TQ_ASSIGN(const int64_t window, window_of_layer(config, i));
    spec.layers.push_back(
        {attention_block(dims, traits, i, rope, window), sparse ? moe_block(dims, traits, moe, i) : mlp_block(dims, traits, i)});
  }
  return spec;
}

}  // namespace

Result<ModelSpec> parse_qwen2(const JsonReader& config) { return parse_qwen(config, {.qkv_bias = true}, false); }

Result<ModelSpec> parse_qwen3(const JsonReader& config) {
  TQ_ASSIGN(const bool bias, config.boolean_or("attention_bias", false));
  return parse_qwen(config, {.qkv_bias = bias, .output_bias = bias, .head_norms = true, .default_head_dim = 128}, false);
}

Result<ModelSpec> parse_qwen3_moe(const JsonReader& config) {
  TQ_ASSIGN(const bool bias, config.boolean_or("attention_bias", false));
  return parse_qwen(config, {.qkv_bias = bias, .output_bias = bias, .head_norms = true}, true);
}

}  // namespace tq
