// What running a model takes of a card's memory (kernels/cuda), by its shapes alone.
#pragma once

#include "graph/network.h"

namespace tq {

// A matrix as it is kept: in plane rows of the grid, or, without any, as elements.
struct CardMatrix {
  std::string name;  // of the linear; those of a mixture have it many times
  std::string tap;   // matrices of one are multiplied together; empty: it is only looked up
  int64_t rows = 0, columns = 0, plane_rows = 0;
  int64_t element_bytes = 2;  // 4 of plain F32, which stays so; everything else becomes halves
};

struct CardFootprint {
  uint64_t weights = 0, keys_values = 0, working = 0;
  uint64_t fixed = 0;  // the driver's, the kernels' and cuBLAS's

  uint64_t all() const { return weights + keys_values + working + fixed; }
};

// matrices: all of the model, head and embedding included; a tied one counts once. size: of the passes to come. kv_bytes: of an engine.
CardFootprint card_footprint(const ModelSpec& spec, const std::vector<CardMatrix>& matrices, const Network::Size& size, uint64_t kv_bytes);
// Those of a model as it is.
std::vector<CardMatrix> card_matrices(const Model& model);

}  // namespace tq
