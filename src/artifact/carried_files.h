// The small files of a Hugging Face directory: tokenizer, template, licence.
#pragma once

#include "artifact/model.h"

namespace tq {

// Reads the files that travel with a model from its directory, adds them to its parts, and builds the tokenizer and the chat template from
// them. Errors: kBadInput with the file.
Status read_carried_files(const std::string& directory, Model& model);

}  // namespace tq
