#include "artifact/format.h"

namespace tq {

bool is_artifact(const Json& config) {
  const auto found = config.find("quantization_config");
  return found != config.end() && found->is_object() && found->contains("quant_method") && (*found)["quant_method"] == kQuantMethod;
}

std::string shard_name(size_t index, size_t count) {
  return count == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

}  // namespace tq
