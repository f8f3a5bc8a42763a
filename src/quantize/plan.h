// What a quantization will write: known to the byte before any weight is read.
#pragma once

#include <string>
#include <vector>

#include "artifact/writer.h"
#include "quantize/options.h"
#include "quantize/rates.h"

namespace tq {

struct TensorPlan {
  Linear linear;
  Rates rates;
};

struct QuantizePlan {
  QuantizeOptions options;
  std::vector<std::vector<TensorPlan>> layers;  // the linears of each layer, in order
  std::vector<TensorPlan> tables;               // head and embedding, as far as they are quantized
  grid::TapsByRate taps;
  std::map<std::string, std::string> texts;  // small files by name, complete but for the hashes and errors in turboquant.json

  std::vector<const TensorPlan*> tensors() const;
};

// Errors: kUsage for options out of range, kBadInput for a model that the grid cannot take (mixtures, for now).
Result<QuantizePlan> make_plan(const Model& model, const QuantizeOptions& options);

// A tensor decoded and stored as F32, F16 or BF16, streamed.
PendingArray converted(const std::string& name, const PackedTensor& tensor, DType dtype);

// The arrays of a planned tensor, without the shared ones.
std::vector<safetensors::TensorInfo> arrays_of(const TensorPlan& tensor);
// The packed +-1 vector of a tap point: random, from the seed and its name.
std::vector<uint8_t> sign_of(const std::string& tap, int64_t columns, uint64_t seed);

// Every array of the finished artifact in order. Those that quantization makes come from `made`, by name; where it has no such array,
// the result can be measured but not written.
using ArrayLookup = std::function<const PendingArray*(const std::string& name)>;
std::vector<PendingArray> artifact_arrays(const Model& model, const QuantizePlan& plan, const ArrayLookup& made);

// Mean bits a weight over the linears of the layers: the code alone, and with scales, signs, tables and padding.
struct MeanBits {
  double code = 0, stored = 0;
};
MeanBits mean_bits(const QuantizePlan& plan);

}  // namespace tq
