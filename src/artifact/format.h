// Names and limits of the artifact format (docs/format.md).
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace tq {

// The highest that is read. 2: E8P matrices may have row scales; written only where they do.
constexpr int kFormatVersion = 3;
constexpr std::string_view kQuantMethod = "turboquant";

// Whether a config.json is that of an artifact of ours, of any version.
bool is_artifact(const Json& config);

// "model-00002-of-00003.safetensors"; one shard is "model.safetensors".
std::string shard_name(size_t index, size_t count);

}  // namespace tq
