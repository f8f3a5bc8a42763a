// AWQ (Lin et al. 2023, "Activation-aware Weight Quantization"): scales of the input channels, folded into what comes before, and clipped
// ranges, both found by search. Departures from the paper's program: a candidate is judged by the outputs of the linears themselves,
// tr(D H D^T) over all calibration tokens, where the program runs the block on some of them.
#pragma once

#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "codec/scalar/scalar.h"
#include "quantize/round.h"

namespace tq::awq {

// A linear that reads the input, weight [R, C] row by row.
struct Reader {
  Buffer<float> weight;
  int64_t rows = 0;
  int bits = 4;  // of its codes
};

struct Input {
  int64_t columns = 0, group = 0;
  const Buffer<float>* hessian = nullptr;  // [C, C] mean second moment
  std::span<const double> magnitude;       // [C] mean |x|
};

// s [C]: columns are multiplied by s, inputs divided. The best of mean|x|^r / sqrt(max min) for r = 0, 1/20, … 19/20. On all threads, or
// on the caller's (null), with the same result.
std::vector<float> search_scales(const Input& input, std::span<const Reader> readers, ThreadPool* threads);

// Ranges [R G] of the groups, each clipped to the share of its largest weight (1, 0.95, … 0.55) that loses least under H.
std::vector<scalar::Range> search_ranges(const Input& input, const Reader& reader);

}  // namespace tq::awq
