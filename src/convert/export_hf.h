// A model as a plain Hugging Face directory.
#pragma once

#include <string>

#include "artifact/model.h"
#include "base/context.h"

namespace tq {

// Writes every tensor decoded to dtype (F32, F16 or BF16), config.json and the tokenizer files, which any Hugging Face tool loads.
// Errors: kUsage when the directory exists or DIRECTORY.partial is somebody else's, those of files.
Status export_hf(const Model& model, DType dtype, const std::string& directory, const Context& context);

}  // namespace tq
