// The vocabulary and chat template of a GGUF file.
#pragma once

#include "artifact/model.h"
#include "io/gguf.h"

namespace tq {

// Fills the model's tokenizer, template and carried files (tokenizer.json, tokenizer_config.json). A file without a vocabulary is fine.
Status read_gguf_vocabulary(const gguf::File& file, Model& model);

}  // namespace tq
