// GGUF metadata as a Hugging Face configuration, so that one parser serves both kinds of source.
#pragma once

#include "base/json.h"
#include "io/gguf.h"

namespace tq {

// config.json of the model in the file. Errors: kBadInput for an architecture without a family here, or inconsistent metadata.
Result<Json> config_of_gguf(const gguf::File& file);

}  // namespace tq
