// Rotary frequencies from a Hugging Face configuration, transformers v4 (rope_theta, rope_scaling) and v5 (rope_parameters) spelling.
#pragma once

#include "base/json.h"
#include "model/spec.h"

namespace tq {

struct RopeRequest {
  int64_t rotary_dim = 0;  // even; dimensions of a head that are rotated
  double default_theta = 10000.0;
  int64_t context = 0;                   // max_position_embeddings
  std::string theta_key = "rope_theta";  // v4 spelling of the base; Gemma's local layers have their own
  std::string attention_type;            // v5: the entry of rope_parameters for this kind of layer, when it has one per kind
  bool ignore_v4_scaling = false;        // v4: rope_scaling does not apply to this kind of layer
};

// Types: default, linear, llama3 (Llama 3.1), yarn (Peng et al. 2023), longrope (Ding et al. 2024). dynamic: refused by name.
Result<Rope> parse_rope(const JsonReader& config, const RopeRequest& request);

}  // namespace tq
