// What the files of a model say about generation.
#pragma once

#include "artifact/model.h"
#include "run/sampler.h"

namespace tq {

struct GenerationConfig {
  std::vector<TokenId> end_of_turn;  // eos_token_id of generation_config.json and config.json; all within the vocabulary
  SamplerOptions sampler;            // of generation_config.json where it asks for sampling, else this program's defaults
};

// Errors: kBadInput for a generation_config.json that is no JSON object, or a value of the wrong type.
Result<GenerationConfig> read_generation_config(const Model& model);

}  // namespace tq
