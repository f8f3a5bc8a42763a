// Configurations of multimodal models, of which the language model is one part.
#pragma once

#include "base/json.h"

namespace tq {

// The language model's own configuration, with its architecture and with what published files leave to the default; a configuration that
// wraps nothing known, as it is.
Json language_config(const Json& config);

}  // namespace tq
