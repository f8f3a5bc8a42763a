// Llama 2 and 3, SmolLM2; Mistral adds a window, Mixtral experts.
#include "model/family/decoder.h"

namespace tq {
namespace {

struct Common {
  ModelSpec spec;
  DecoderTraits traits;
  DecoderDims dims;
  Rope rope;
  int64_t window = 0;
};

Result<Common> read_common(const JsonReader& config, double default_theta) {
  Common out;
  TQ_ASSIGN(const bool attention_bias, config.boolean_or("attention_bias", false));
  TQ_ASSIGN(const bool mlp_bias, config.boolean_or("mlp_bias", false));
  out.traits.qkv_bias = out.traits.output_bias = attention_bias;
  out.traits.mlp_bias = mlp_bias;
  TQ_ASSIGN(out.traits.activation, read_activation(config, "silu"));
  TQ_ASSIGN(out.dims, read_dims(config, out.traits, &out.spec));
  TQ_ASSIGN(out.rope, parse_rope(config, {.rotary_dim = out.dims.head_dim, .default_theta = default_theta, .context = out.spec.context}));
  return out;
}

ModelSpec dense(Common common) {
  for (int64_t i = 0; i < common.dims.layers; ++i)
    common.spec.layers.push_back(
        {attention_block(common.dims, common.traits, i, common.rope, common.window), mlp_block(common.dims, common.traits, i)});
  return std::move(common.spec);
}

}  // namespace

Result<ModelSpec> parse_llama(const JsonReader& config) {
  TQ_ASSIGN(Common common, read_common(config, 10000.0));
  return dense(std::move(common));
}

Result<ModelSpec> parse_mistral(const JsonReader& config) {
  TQ_ASSIGN(Common common, read_common(config, 10000.0));
  TQ_ASSIGN(common.window, config.integer_or("sliding_window", 0, 0, int64_t{1} << 28));
  return dense(std::move(common));
}

Result<ModelSpec> parse_mixtral(const JsonReader& config) {
  TQ_ASSIGN(Common common, read_common(config, 1e6));
  TQ_ASSIGN(common.window, config.integer_or("sliding_window", 0, 0, int64_t{1} << 28));
  MoeTraits moe{.intermediate = common.dims.intermediate, .prefix = "block_sparse_moe"};
  TQ_ASSIGN(moe.experts, config.integer_or("num_local_experts", 8, 1, 4096));
  TQ_ASSIGN(moe.experts_per_token, config.integer_or("num_experts_per_tok", 2, 1, moe.experts));
  for (int64_t i = 0; i < common.dims.layers; ++i)
    common.spec.layers.push_back(
        {attention_block(common.dims, common.traits, i, common.rope, common.window), moe_block(common.dims, common.traits, moe, i)});
  return std::move(common.spec);
}

}  // namespace tq
