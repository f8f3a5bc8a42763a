// Sizes that a quantization is asked to have, turned into mean bits of the linears.
#pragma once

#include "graph/footprint.h"
#include "quantize/plan.h"

namespace tq {

// The options with the most bits for which the finished directory has at most `bytes`, of 2 to 8.
// Errors: kUsage with the smallest size that is possible; those of make_plan.
Result<QuantizeOptions> fit_bits(const Model& model, QuantizeOptions options, uint64_t bytes);

// The options with the most bits with which running takes at most running.memory of a card: files, keys and values, all that works.
// Errors: kUsage with the least that is possible; those of make_plan.
struct RunningMemory;
Result<QuantizeOptions> fit_card(const Model& model, QuantizeOptions options, const RunningMemory& running);
// What running a model takes of a card: as it is stored, or as a plan will store it.
CardFootprint footprint_of(const Model& model, const QuantizePlan* plan, const RunningMemory& running);

// What a machine must have for running the model, and how it is run.
struct RunningMemory {
  uint64_t memory = 0;
  int64_t context = 4096, batch = 1;  // sequences at once, keys and values of each in F16
};
// Beside the files: keys, values and the working memory of a prompt's chunk.
uint64_t running_bytes(const ModelSpec& spec, const RunningMemory& running);
// As fit_card, on the host: files and running_bytes.
Result<QuantizeOptions> fit_memory(const Model& model, QuantizeOptions options, const RunningMemory& running);

// A model that has shapes and no values, from its config.json: enough for a plan.
Result<Model> shapes_of(const Json& config, const std::string& source);

}  // namespace tq
