// Reads artifacts.
#pragma once

#include <string>

#include "artifact/format.h"
#include "artifact/model.h"

namespace tq {

// Opens a TurboQuant artifact: checks version, names, shapes and sizes of everything, reads no weights.
// Errors: kBadInput with what is wrong and where.
Result<Model> read_artifact(const std::string& directory);

// Reads every byte and compares with the hashes of turboquant.json. Errors: kBadInput with the first file that differs or is missing.
Status verify_artifact(const std::string& directory);

}  // namespace tq
