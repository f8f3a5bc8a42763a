// Phi-3 and Phi-4-mini: fused qkv and gate-up, long rope, part of a head rotated.
#include "model/family/decoder.h"

namespace tq {

Result<ModelSpec> parse_phi3(const JsonReader& config) {
  ModelSpec spec;
  DecoderTraits traits{.fused = true};
  TQ_ASSIGN(traits.activation, read_activation(config, "silu"));
  TQ_ASSIGN(const DecoderDims dims, read_dims(config, traits, &spec));
  // transformers v5 keeps it among the rope's parameters.
  static const Json kNothing = Json::object();
  const Json* rope_parameters = config.find("rope_parameters");
  const JsonReader parameters(rope_parameters ? *rope_parameters : kNothing, config.where() + " rope_parameters");
  TQ_ASSIGN(const double old_part, config.number_or("partial_rotary_factor", 1.0));
  TQ_ASSIGN(const double part, parameters.number_or("partial_rotary_factor", old_part));
  if (!(part > 0 && part <= 1)) return bad_input("{}: 'partial_rotary_factor' should lie in (0, 1]", config.where());
  const auto rotary = static_cast<int64_t>(static_cast<double>(dims.head_dim) * part);
  TQ_ASSIGN(const Rope rope, parse_rope(config, {.rotary_dim = rotary, .default_theta = 10000.0, .context = spec.context}));
  TQ_ASSIGN(const int64_t window, config.integer_or("sliding_window", 0, 0, int64_t{1} << 28));
  for (int64_t i = 0; i < dims.layers; ++i)
    spec.layers.push_back({attention_block(dims, traits, i, rope, window), mlp_block(dims, traits, i)});
  return spec;
}

}  // namespace tq
