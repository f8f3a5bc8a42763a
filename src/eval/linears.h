// How fast a model's linears are, each kind on its own, beside how fast memory can be read in the same run.
#pragma once

#include <string>
#include <vector>

#include "base/context.h"
#include "graph/network.h"

namespace tq {

struct LinearsOptions {
  std::vector<int64_t> tokens = {1};  // at once; each number is measured
  int repetitions = 3;                // of which the median counts
};

// Linears that the forward pass computes in one go, over all layers where they have this shape. A call rounds or rotates its input,
// multiplies it and writes the output; norms, gates and sums around it are not in it.
struct LinearSpeed {
  std::string name;               // "q k v", "o", "gate up", "down", "router", "experts gate up", "experts down", "head"
  int64_t tokens = 0;             // at once
  int64_t rows = 0, columns = 0;  // of the matrices that share the input together; of one expert
  int64_t experts = 0;            // that a call goes through, the tokens spread evenly over them; 0: no mixture
  int64_t calls = 0;              // one a layer
  uint64_t bytes = 0;             // of weights that all calls together read
  double seconds = 0;             // of one call, median
  double bytes_per_second = 0;
};

struct LinearsResult {
  std::vector<LinearSpeed> linears;  // by number of tokens, in the order of the layers; the head last
  double read_bytes_per_second = 0;  // median of what was measured before each of them
};

// Through the backend's operations: a call follows the other through all layers, so that weights come from memory and not from a cache.
// Errors: kUsage for numbers that are no numbers of tokens, kNoResource, kInterrupted.
Result<LinearsResult> measure_linears(const Network& network, const LinearsOptions& options, const Context& context);

// What a pass over all linears but the head takes, for one of the numbers of tokens: the mean of a layer, named "layer".
LinearSpeed mean_layer(const LinearsResult& result, int64_t tokens, int64_t layers);

}  // namespace tq
