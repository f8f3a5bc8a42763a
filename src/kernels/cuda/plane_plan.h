// How a product of planes is shared out on a card.
#pragma once

#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

struct PlanePlan {
  Form form;
  Split split;
  bool rounds = false;  // thread blocks round the activations for themselves

  int blocks() const { return split.slices * split.of_slice; }
  int64_t partial_floats() const { return static_cast<int64_t>(split.slices) * form.tokens * split.tiles * kTileRows; }
};

// tiles: rows of them, over all matrices. most_round_groups: of a slice of up to two tokens; 0: what won in lab/cuda-planes.
inline PlanePlan plan_planes(int columns, int tiles, int tokens, int multiprocessors, int most_round_groups = 0) {
  PlanePlan plan;
  plan.form = form_of(tokens);
  plan.rounds = tokens == 1;
  Split& split = plan.split;
  split.groups = (columns + kGroupColumns - 1) / kGroupColumns, split.tiles = tiles;
  const bool is_whole = split.groups <= kMaxRoundGroups && plan.form.tokens <= 2;
  const int most = most_round_groups > 0 && plan.form.tokens <= 2 ? most_round_groups : is_whole ? kMaxRoundGroups : kMaxLoadGroups;
  split.slices = (split.groups + most - 1) / most;
  if (split.slices > multiprocessors) split.slices = multiprocessors;
  split.of_slice = multiprocessors / split.slices < tiles ? multiprocessors / split.slices : tiles;
  const int groups = (split.groups + split.slices - 1) / split.slices;
  split.parts = (groups + kWarpGroups - 1) / kWarpGroups;
  split.phases = kProductWarps / split.parts;
  return plan;
}

}  // namespace tq::cuda
