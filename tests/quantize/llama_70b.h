// The shapes of Llama 3 70B.
#pragma once

#include "base/json.h"

namespace tq {

inline Json llama_70b() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"hidden_size", 8192},
          {"intermediate_size", 28672},
          {"num_hidden_layers", 80},
          {"num_attention_heads", 64},
          {"num_key_value_heads", 8},
          {"vocab_size", 128256},
          {"max_position_embeddings", 8192},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0}};
}

}  // namespace tq
