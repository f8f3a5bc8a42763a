// Sources: what other programs write, as a Model. Everything stays memory-mapped; nothing is converted up front.
#pragma once

#include <string>

#include "artifact/model.h"
#include "io/gguf.h"

namespace tq {

// A GGUF file, a Hugging Face directory or a TurboQuant artifact, told apart by looking. The model has passed check_model.
// Errors: kBadInput with what the path is and what it should be.
Result<Model> load_model(const std::string& path);

Result<Model> import_gguf(const std::string& path);
// path: for messages.
Result<Model> gguf_model(const std::shared_ptr<const gguf::File>& file, const std::string& path);
Result<Model> import_hf(const std::string& directory);

}  // namespace tq
