// What a report shows of a model: gathered from the model and, for an artifact, from its turboquant.json.
#pragma once

#include <string>
#include <vector>

#include "artifact/model.h"

namespace tq::report {

struct TensorFacts {
  std::string name, kind;      // kind: "query", "down", …
  int64_t layer = -1;          // -1: head and embedding
  double bits = 0;             // mean rate, without scales and padding; 0 when it is not a grid tensor
  double relative_error = -1;  // of its output under the calibration statistics; -1: not known
};

struct ModelFacts {
  std::string name, description, format;
  int64_t layers = 0;
  uint64_t file_bytes = 0, bytes_in_16_bits = 0;
  double bits_linears = 0, bits_all = 0;  // stored, a weight
  std::vector<TensorFacts> tensors;       // linears in order, then head and embedding
  std::string rates_choice;               // how the rates were chosen, a sentence; empty: not known
  std::string unusual_inputs;             // those that said too little to round under, by name; empty: none, or not known
};

ModelFacts gather_facts(const Model& model);

}  // namespace tq::report
