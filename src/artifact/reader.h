// Reads artifacts.
#pragma once

#include <memory>
#include <string>

#include "artifact/format.h"
#include "artifact/model.h"
#include "io/safetensors.h"

namespace tq {

// Opens a TurboQuant artifact: checks version, names, shapes and sizes of everything, reads no weights.
// Errors: kBadInput with what is wrong and where.
Result<Model> read_artifact(const std::string& directory);

// The same of a parsed config.json and opened weight files; without tokenizer and carried files. source: for messages.
Result<Model> artifact_model(Json config, const std::shared_ptr<const safetensors::Archive>& archive, const std::string& source);

// Reads every byte of the weight files and compares with the hashes of turboquant.json. Errors: kBadInput with the first file that differs,
// is missing or has no hash.
Status verify_artifact(const std::string& directory);

}  // namespace tq
