// Sizes that a quantization is asked to have, turned into mean bits of the linears.
#pragma once

#include <functional>

#include "graph/footprint.h"
#include "quantize/plan.h"

namespace tq {

// What else is decided once the bits are known, such as the stages' budgets; applied to the options that a size is taken of.
using Completion = std::function<Result<QuantizeOptions>(QuantizeOptions)>;

// The options with the most bits for which the finished directory has at most `bytes`, of those that the method has. They are not
// completed. Errors: kUsage with the smallest size that is possible; those of make_plan and of `complete`.
Result<QuantizeOptions> fit_bits(const Model& model, QuantizeOptions options, uint64_t bytes, const Completion& complete = {});

// The options with the most bits with which running takes at most running.memory of a card: files, keys and values, all that works.
// Errors: as of fit_bits.
Result<QuantizeOptions> fit_card(const Model& model, QuantizeOptions options, const RunningMemory& running,
                                 const Completion& complete = {});
// By how many bytes the plan's result is larger than its options allow (byte_limit, card); 0: it is not.
uint64_t excess_bytes(const Model& model, const QuantizePlan& plan);
// What running a model takes of a card: as it is stored, or as a plan will store it.
CardFootprint footprint_of(const Model& model, const QuantizePlan* plan, const RunningMemory& running);

// Beside the files, on the host: keys and values of all sequences, and what an engine of so many works in.
uint64_t engine_bytes(const ModelSpec& spec, const RunningMemory& running);
// This, and what operations have of their own.
uint64_t running_bytes(const ModelSpec& spec, const RunningMemory& running);
// As fit_card, on the host: files and running_bytes.
Result<QuantizeOptions> fit_memory(const Model& model, QuantizeOptions options, const RunningMemory& running,
                                   const Completion& complete = {});

// What the finished directory will hold at most, whatever rates are chosen by what they cost; of other plans exactly what they will. With a
// byte limit no more than that.
uint64_t most_bytes(const Model& model, const QuantizePlan& plan);

// A model that has shapes and no values, from its config.json: enough for a plan.
Result<Model> shapes_of(const Json& config, const std::string& source);

}  // namespace tq
