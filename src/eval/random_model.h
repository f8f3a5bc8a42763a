// Models of random weights in the shapes of known ones: speed does not depend on what the weights mean.
#pragma once

#include <span>
#include <string_view>

#include "artifact/model.h"
#include "base/thread_pool.h"

namespace tq {

// The shapes there are, for messages: "llama-3-8b". "llama-8b" and "llama-70b" are known as well.
std::span<const std::string_view> random_model_names();

struct RandomModelOptions {
  std::string_view name = "llama-1b";  // of a known shape
  int bits = 3;                        // 2 to 8: packed planes, embedding and head at 6, routers F16; 16: everything F16
  uint64_t seed = 0;
  Json changes = Json::object();  // of its config.json, for models of a size that a test can have
};

// What the model computes, without its weights. Errors: kUsage for a name that there is not.
Result<ModelSpec> random_model_spec(const RandomModelOptions& options);

// Without a tokenizer. The same options give the same bytes on every machine and any number of threads.
// Errors: kUsage for a name or a number of bits that there is not.
Result<Model> make_random_model(const RandomModelOptions& options, ThreadPool& threads);

}  // namespace tq
