// Gemma 3, text: norms of w + 1, four norms a layer, head norms, five local layers to a global one, scaled embedding, tied head.
#include <cmath>

#include "base/float16.h"
#include "model/family/decoder.h"

namespace tq {
namespace {

Result<bool> is_local(const JsonReader& config, int64_t layer) {
  if (const Json* types = config.find("layer_types"); types && types->is_array() && static_cast<size_t>(layer) < types->size())
    return (*types)[static_cast<size_t>(layer)] == "sliding_attention";
  TQ_ASSIGN(const int64_t old_name, config.integer_or("_sliding_window_pattern", 6, 1, 4096));
  TQ_ASSIGN(const int64_t pattern, config.integer_or("sliding_window_pattern", old_name, 1, 4096));
  return (layer + 1) % pattern != 0;
}

}  // namespace

Result<ModelSpec> parse_gemma3(const JsonReader& config) {
  ModelSpec spec;
  TQ_ASSIGN(const bool bias, config.boolean_or("attention_bias", false));
  DecoderTraits traits{
      .qkv_bias = bias, .output_bias = bias, .head_norms = true, .post_norms = true, .default_tied = true, .default_head_dim = 256};
  TQ_ASSIGN(traits.activation, read_activation(config, "gelu_pytorch_tanh"));
  TQ_ASSIGN(const DecoderDims dims, read_dims(config, traits, &spec));
  TQ_ASSIGN(
      const Rope global,
      parse_rope(config, {.rotary_dim = dims.head_dim, .default_theta = 1e6, .context = spec.context, .attention_type = "full_attention"}));
  TQ_ASSIGN(const Rope local, parse_rope(config, {.rotary_dim = dims.head_dim,
                                                  .default_theta = 1e4,
                                                  .context = spec.context,
                                                  .theta_key = "rope_local_base_freq",
                                                  .attention_type = "sliding_attention",
                                                  .ignore_v4_scaling = true}));
  TQ_ASSIGN(const int64_t window, config.integer_or("sliding_window", 4096, 0, int64_t{1} << 28));
  TQ_ASSIGN(const double score_width, config.number_or("query_pre_attn_scalar", 256.0));
  TQ_ASSIGN(const double softcap, config.number_or("attn_logit_softcapping", 0.0));
  TQ_ASSIGN(const double final_softcap, config.number_or("final_logit_softcapping", 0.0));
  if (!(score_width > 0)) return bad_input("{}: 'query_pre_attn_scalar' should be positive", config.where());
  spec.norm_offset = 1.0f;
  spec.final_softcap = static_cast<float>(final_softcap);
  // The published code multiplies by sqrt(hidden) rounded to the model's bfloat16.
  spec.embed_scale = bf16_to_float(float_to_bf16(std::sqrt(static_cast<float>(dims.hidden))));
  for (int64_t i = 0; i < dims.layers; ++i) {
    TQ_ASSIGN(const bool slides, is_local(config, i));
    Block attention = attention_block(dims, traits, i, slides ? local : global, slides ? window : 0);
    auto& op = std::get<Attention>(attention.op);
    op.score_scale = static_cast<float>(1.0 / std::sqrt(score_width));
    op.softcap = static_cast<float>(softcap);
    spec.layers.push_back({std::move(attention), mlp_block(dims, traits, i)});
  }
  return spec;
}

}  // namespace tq
