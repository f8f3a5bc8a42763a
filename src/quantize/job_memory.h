// How much memory a quantization takes, and so how many layers are rounded together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quantize/allocation_plan.h"
#include "quantize/plan.h"

namespace tq {

// Layers up to this size are decoded to float as a whole when the stream runs through them.
constexpr uint64_t kLargestDecodedLayer = uint64_t{1} << 30;
// Of the largest layer as floats.
uint64_t decoded_layer_bytes(const QuantizePlan& plan);

// How many layers memory allows to round together; and of these as many as all threads have work to the end for.
size_t layers_in_memory(const QuantizePlan& plan, int threads);
size_t layers_per_wave(const QuantizePlan& plan, int threads);

// Upper estimate of the processor's memory that the choice of bits takes for hidden states and what works on them, in bytes: of the
// candidates' stream, of costs or of measurements, whichever takes most. Weights are apart. length: tokens of a calibration sequence.
uint64_t allocation_memory(const ModelSpec& spec, const AllocationPlan& plan, int64_t length);

// The same of measuring the gradients of so many sequences: of hidden states and what works on them, of one wave, and of the gradients of
// all. length: tokens of a sequence.
uint64_t gradients_memory(const ModelSpec& spec, int64_t sequences, int64_t length);

// Upper estimate of the memory beyond the mapped source, in bytes.
uint64_t planned_memory(const Model& model, const QuantizePlan& plan, int threads);

}  // namespace tq
