// What the user decides about a quantization, and what follows from it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "codec/grid/grid.h"
#include "quantize/target.h"

namespace tq {

// How much time quantization may take: windows (2^L branches a weight) and calibration tokens.
enum class Effort : uint8_t { kFast, kNormal, kBest };
std::optional<Effort> effort_from_name(std::string_view name);
std::string_view effort_name(Effort effort);

// How the linears of the layers are rounded: this program's own way, or one of those it is compared with.
//   rtn   round to nearest, min-max scales by group (codec scalar)
//   gptq  the same codes with error feedback, columns by falling diagonal of H (Frantar et al. 2022)
//   awq   the same codes without feedback, after a search of input scales and clipping (Lin et al. 2023)
//   quip  QuIP#: E8P vectors with block feedback between two-sided random Hadamard transforms (Tseng et al. 2024), codec e8p
enum class Method : uint8_t { kTurboquant, kRtn, kGptq, kAwq, kQuip };
std::optional<Method> method_from_name(std::string_view name);
std::string_view method_name(Method method);
// Bits a weight that a method has: up to so many, from 2 on; only whole ones.
double highest_bits(Method method);
bool has_whole_bits(Method method);

// What a machine must have for running the model, and how it is run.
struct RunningMemory {
  uint64_t memory = 0;
  int64_t context = 4096, batch = 1;  // sequences at once, keys and values of each in F16
};

struct QuantizeOptions {
  Method method = Method::kTurboquant;
  int64_t group = 128;  // rtn, gptq, awq: columns that share a scale, 64 or less where it does not divide a matrix; 0: all of a row
  std::optional<bool> act_order;  // columns by falling diagonal of H; by default gptq does, turboquant does not
  double bits = 3.0;              // mean over the linears of the layers, 2 to 8
  Effort effort = Effort::kNormal;
  std::optional<Effort> rounding;        // whose windows matrices are rounded by; those of `effort` when not given
  int embedding_bits = 6;                // 0: as in the original; a tied embedding follows the head
  int head_bits = 6;                     // 0: as in the original
  std::vector<std::string> calibration;  // text files; empty: the text that comes with the program
  int64_t calibration_tokens = 0;        // 0: by effort
  int64_t sequence = 1024;               // tokens of a calibration sequence
  std::optional<double> damping;         // of the Hessian's mean diagonal; default_damping when not given
  std::optional<bool> gradients;         // weight tokens by the gradients at the linears' outputs; off when not given
  int64_t gradient_tokens = 0;           // of the calibration's that are weighted, the others count as their mean; 0: all
  std::optional<bool> allocate;          // choose each linear's rate by what it costs; off when not given
  int64_t allocate_tokens = 0;           // that rates are priced on, in short sequences; 0: a share of the calibration's sequences
  std::optional<bool> calibrate;         // tune each block while it is rounded; off when not given
  int64_t calibrate_steps = 0;           // after each stage of a block; 0: by effort
  int64_t calibrate_sequences = 0;       // a step; 0: by effort
  int64_t calibrate_tokens = 0;          // at the front of a step's sequences; 0: by effort
  double calibrate_weight_rate = -1;     // CalibrationBudget; negative: by effort
  double calibrate_vector_rate = -1;
  std::optional<bool> tune;             // move scales, norms and biases of the rounded model towards the original; off when not given
  int64_t tune_steps = 0;               // 0: by effort
  int64_t tune_measures = 0;            // of held-out text in the course of the steps; 0: the usual number
  double tune_rate = 0;                 // the highest rate of its steps, a relative change; 0: by the KL before
  std::map<std::string, double> rates;  // mean bits of linears by name, instead of `bits` and of what allocation chooses
  Target target = Target::kNone;        // what ties rates together
  uint64_t byte_limit = 0;              // of the finished directory; 0: none. Where `bits` came from
  std::optional<RunningMemory> card;    // that shall run it: what it takes there is limited too
  int passes = 0;                       // turboquant: times that all columns are rounded again
  uint64_t shard_bytes = uint64_t{4} << 30;
  bool report = false;  // report.html in the artifact
  uint64_t seed = 0;
};

bool uses_act_order(const QuantizeOptions& options);
int64_t calibration_tokens(const QuantizeOptions& options);
// The rivals' own 0.01. Ours is larger, the more so the fewer the bits (the inputs of the quantized model differ from those that the second
// moment was measured on by about the rounding of the layers before) and the fewer the tokens (small eigenvalues are underestimated).
double damping_of(const QuantizeOptions& options);
bool uses_gradients(const QuantizeOptions& options);
bool uses_allocation(const QuantizeOptions& options);
bool uses_calibration(const QuantizeOptions& options);
bool uses_tuning(const QuantizeOptions& options);
// Whether each layer is measured on what the rounded ones before it make of the text, stage by stage: with calibration, and by GPTQ, whose
// paper's program does so.
bool rounds_in_sequence(const QuantizeOptions& options);
// Window L of a rate.
int window_of(int rate, Effort effort);
// The taps for every rate that the program can use at this effort.
grid::TapsByRate taps_of(Effort effort);
grid::TapsByRate taps_of(const QuantizeOptions& options);

}  // namespace tq
