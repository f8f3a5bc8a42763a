// What the user decides about a quantization, and what follows from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "codec/grid/grid.h"

namespace tq {

// How much time quantization may take: windows (2^L branches a weight) and calibration tokens.
enum class Effort : uint8_t { kFast, kNormal, kBest };
std::optional<Effort> effort_from_name(std::string_view name);
std::string_view effort_name(Effort effort);

struct QuantizeOptions {
  double bits = 3.0;  // mean over the linears of the layers, 2 to 8
  Effort effort = Effort::kNormal;
  int embedding_bits = 6;                // 0: as in the original; a tied embedding follows the head
  int head_bits = 6;                     // 0: as in the original
  std::vector<std::string> calibration;  // text files; empty: the text that comes with the program
  int64_t calibration_tokens = 0;        // 0: by effort
  int64_t sequence = 1024;               // tokens of a calibration sequence
  double damping = 0.01;                 // of the Hessian's mean diagonal
  std::optional<bool> gradients;         // weight tokens by the gradients at the linears' outputs; by effort when not given
  uint64_t shard_bytes = uint64_t{4} << 30;
  uint64_t seed = 0;
};

int64_t calibration_tokens(const QuantizeOptions& options);
bool uses_gradients(const QuantizeOptions& options);
// Window L of a rate.
int window_of(int rate, Effort effort);
// The taps for every rate that the program can use at this effort.
grid::TapsByRate taps_of(Effort effort);

}  // namespace tq
