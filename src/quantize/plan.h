// What a quantization will write: known to the byte before any weight is read.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "artifact/writer.h"
#include "quantize/options.h"
#include "quantize/rates.h"

namespace tq {

struct TensorPlan {
  Linear linear;
  Rates rates;  // of the grid; other methods have the same one everywhere
  Method method = Method::kTurboquant;
  int64_t group = 0;           // of scalar codes: columns that share a scale, divides linear.in
  bool has_order = false;      // scalar codes in an order of columns of their own
  bool has_row_scale = false;  // E8P whose output signs become real numbers, which calibration and tuning move

  int bits() const { return rates.at(0); }
};

// AWQ: the scales of a tap point's input are divided out of what comes before it: a norm, or rows of a linear.
struct Fold {
  std::string tap;
  std::string name;  // of the norm or linear, without ".weight"
  bool is_norm = false;
  int64_t first_row = 0;  // of a linear, whose rows [first_row, first_row + C) make the input
  bool has_bias = false;
};

// Ways to choose rates: the same everywhere; nothing below the base rate; linears as wholes, both ways; ranges of rows, both ways; the last
// of these once more by the costs in the moved model; by the user.
enum class AllocationKind : uint8_t { kUniform, kPromotions, kMoves, kRanges, kRepriced, kGiven };
constexpr size_t kMeasuredAllocations = 5;  // all but the user's
std::string_view allocation_name(AllocationKind kind);
std::string_view allocation_text(AllocationKind kind);  // for people, behind a figure

// How the rates were chosen: divergences on held-out text of models with short windows, in nats a token; 0 where not measured.
struct AllocationFacts {
  AllocationKind chosen = AllocationKind::kUniform;
  std::array<double, kMeasuredAllocations> kl{};
  double ties = 0;  // estimate of what a target's ties cost: by the costs, with them less without
};

struct QuantizePlan {
  QuantizeOptions options;
  std::vector<std::vector<TensorPlan>> layers;  // the linears of each layer, in order
  std::vector<std::vector<Fold>> folds;         // of each layer
  std::vector<TensorPlan> tables;               // head and embedding, as far as they are quantized
  grid::TapsByRate taps;
  AllocationFacts allocation;
  std::map<std::string, std::string> texts;  // small files by name, complete but for the hashes and errors in turboquant.json

  std::vector<const TensorPlan*> tensors() const;
};

// Of each matrix of a tensor of the grid.
std::vector<int64_t> plane_rows(const TensorPlan& tensor);

// Errors: kUsage for options out of range, kBadInput for a model that the method cannot take (quip: columns that are no multiple of 8).
Result<QuantizePlan> make_plan(const Model& model, const QuantizeOptions& options);

// The arrays of a planned tensor, without the shared ones.
std::vector<safetensors::TensorInfo> arrays_of(const TensorPlan& tensor);
// The plain arrays that folds change, as F32: norms and biases.
std::vector<safetensors::TensorInfo> changed_arrays(const Model& model, const std::vector<Fold>& folds);
// The packed +-1 vector of a tap point: random, from the seed and its name.
std::vector<uint8_t> sign_of(const std::string& tap, int64_t columns, uint64_t seed);

// Every array of the finished artifact in order. Those that quantization makes come from `made`, by name; where it has no such array,
// the result can be measured but not written.
using ArrayLookup = std::function<const PendingArray*(const std::string& name)>;
std::vector<PendingArray> artifact_arrays(const Model& model, const QuantizePlan& plan, const ArrayLookup& made);

// Whether what stays as it was can be written; it is decoded. Errors: those of write_elements.
Status check_kept(const Model& model, const QuantizePlan& plan);

// Mean bits a weight over the linears of the layers: the code alone, and with scales, signs, tables and padding.
struct MeanBits {
  double code = 0, stored = 0;
};
MeanBits mean_bits(const QuantizePlan& plan);
// Of the code of one tensor.
double mean_rate(const TensorPlan& tensor);

// Gives the linears of the layers other rates; everything that follows from them is made anew. rates: as plan.layers.
void set_rates(const Model& model, QuantizePlan& plan, const std::vector<std::vector<Rates>>& rates);

}  // namespace tq
