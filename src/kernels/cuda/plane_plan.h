// How a product of planes is shared out on a card.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

struct PlanePlan {
  Form form;
  Split split;
  bool rounds = false;  // thread blocks round the activations for themselves

  int blocks() const { return split.slices * split.of_slice; }
  int64_t partial_floats() const { return static_cast<int64_t>(split.slices) * form.tokens * split.tiles * kTileRows; }
};

// tiles: rows of them, over all matrices. most_round_groups: of a slice of up to two tokens; 0: what won in lab/cuda-planes. most_groups:
// of any slice, where shared memory is small.
inline PlanePlan plan_planes(int columns, int tiles, int tokens, int multiprocessors, int most_round_groups = 0,
                             int most_groups = kMaxRoundGroups) {
  PlanePlan plan;
  plan.form = form_of(tokens);
  plan.rounds = tokens == 1;
  Split& split = plan.split;
  split.groups = (columns + kGroupColumns - 1) / kGroupColumns, split.tiles = tiles;
  const bool is_whole = split.groups <= kMaxRoundGroups && plan.form.tokens <= 2;
  const int won = most_round_groups > 0 && plan.form.tokens <= 2 ? most_round_groups : is_whole ? kMaxRoundGroups : kMaxLoadGroups;
  const int most = std::min(won, most_groups);
  split.slices = (split.groups + most - 1) / most;
  if (split.slices > multiprocessors) split.slices = multiprocessors;
  split.of_slice = multiprocessors / split.slices < tiles ? multiprocessors / split.slices : tiles;
  const int groups = (split.groups + split.slices - 1) / split.slices;
  split.parts = (groups + kWarpGroups - 1) / kWarpGroups;
  split.phases = kProductWarps / split.parts;
  return plan;
}

struct ManyPlan {
  Form form;
  ManySplit split;

  int blocks() const { return split.slices * split.workers / kManyWorkers; }
  int64_t words() const { return static_cast<int64_t>(split.groups) * many_group_words(form); }
  int64_t partial_floats() const { return split.slices == 1 ? 0 : split.partial_sums(form.tokens) + form.tokens; }
};

// Whether windows are as the kernel for many tokens has them: no more than kReachRows rows take from a tile, kCarriedRows of them or less
// end in it and as many behind it, and these take from no tile before. 0: a rate without taps.
inline bool many_windows(const int (&windows)[kRates]) {
  int least = kRates, longest = 0;
  for (int rate = 1; rate < kRates; ++rate)
    if (windows[rate] > 0) least = std::min(least, rate), longest = std::max(longest, windows[rate]);
  return least >= kTileRows / kCarriedRows && longest <= kTileRows + 1 && (kTileRows + longest - 2) / least < kReachRows &&
         (longest - 2) / least < kCarriedRows;
}

// What a launch with so many slices costs, about, in the time that a worker takes for a group of its four tiles; `rows` of 4 bits. More
// than one slice costs a launch and memory for their sums.
inline double slices_cost(int groups, int slices, int rows, int multiprocessors) {
  const int workers = kManyWorkers * (multiprocessors / slices), tiles = rows * 4 / kTileRows;
  const int rounds = ((tiles + workers - 1) / workers + kManyTiles) / kManyTiles;  // with a halo of a tile
  const int steps = rounds * ((groups + slices - 1) / slices);
  return steps + (slices > 1 ? 8.0 + slices * rows / 5120.0 : 0.0);
}

// whole_rows: of all matrices, whole where they are cut: a cut has the same slices. is_invariant: slices do not depend on the number of
// tokens. tiles, ranges: over all `jobs` matrices.
inline ManyPlan plan_many(int columns, int whole_rows, int tiles, int ranges, int jobs, int tokens, bool has_pairs, bool is_invariant,
                          int multiprocessors) {
  ManyPlan plan;
  plan.form = many_form(tokens, has_pairs);
  ManySplit& split = plan.split;
  split.groups = (columns + kGroupColumns - 1) / kGroupColumns, split.tiles = tiles, split.ranges = ranges;
  const int most = kManyWords / many_group_words(is_invariant ? Form{kManyTokens, 16} : plan.form);
  double least = 0.0;
  for (int slices = (split.groups + most - 1) / most; slices <= std::min(split.groups, multiprocessors); ++slices) {
    const double cost = slices_cost(split.groups, slices, whole_rows, multiprocessors);
    if (least == 0.0 || cost < least) least = cost, split.slices = slices;
  }
  split.workers = kManyWorkers * std::max(1, std::min(multiprocessors / split.slices, (tiles + kManyWorkers - 1) / kManyWorkers));
  const int of_worker = (tiles + split.workers - 1) / split.workers;
  split.rounds = (of_worker + jobs * (2 * kManyTiles - 1)) / kManyTiles;
  return plan;
}

// Where a matrix's rows have their plane rows, on the host.
struct RowShape {
  int rows = 0, plane_rows = 0;
  const uint8_t* rate = nullptr;        // [ranges]
  const int32_t* newest = nullptr;      // [ranges]
  const int* windows = nullptr;         // [kRates]
  int whole_rows = 0;                   // of the matrix that it is a part of; 0: it is whole
  const int32_t* band_order = nullptr;  // as of PlaneJob

  int units() const { return (rows + kOwnedRows - 1) / kOwnedRows; }
  int tiles() const { return (plane_rows + kTileRows - 1) / kTileRows; }
  // The first plane row of a unit's own; of the one behind the last: their number.
  int plane(int unit) const {
    if (unit >= units()) return plane_rows;
    const int range = unit * kOwnedRows / kRangeRows;
    return newest[range] + 1 + (unit * kOwnedRows % kRangeRows - 1) * rate[range];
  }
  int begin(int unit) const {
    const int range = unit * kOwnedRows / kRangeRows;
    return plane(unit) + rate[range] - windows[rate[range]];
  }
};

// Shares rows out among `blocks` thread blocks at most, in clusters of `slices`. False where they cannot be: matrices too small for a
// cluster, or windows longer than a ring.
inline bool share_rows(const RowShape* shapes, int jobs, int slices, int blocks, Owners& owners) {
  int clusters[kMaxJobs], left = std::min(blocks, kMaxOwners) / slices;
  for (int m = 0; m < jobs; ++m) {
    if (shapes[m].units() < slices || shapes[m].plane_rows < kMaxTaps || left == 0) return false;
    clusters[m] = 1, --left;
  }
  for (; left > 0; --left) {  // one more to whom it helps most
    int most = -1;
    for (int m = 0; m < jobs; ++m) {
      if ((clusters[m] + 1) * slices > shapes[m].units()) continue;
      if (most < 0 ||
          static_cast<int64_t>(shapes[m].plane_rows) * clusters[most] > static_cast<int64_t>(shapes[most].plane_rows) * clusters[m])
        most = m;
    }
    if (most < 0) break;
    ++clusters[most];
  }
  owners.slices = slices, owners.most_rows = owners.most_planes = 0;
  int block = 0;
  for (int m = 0; m < jobs; ++m) {
    const RowShape& shape = shapes[m];
    const int count = clusters[m] * slices;
    owners.first[m] = block;
    for (int i = 0, unit = 0; i <= count; ++i) {
      const int64_t wanted = static_cast<int64_t>(shape.plane_rows) * i / count;
      if (i > 0) ++unit;
      while (unit < shape.units() - (count - i) && shape.plane(unit) + shape.plane(unit + 1) <= 2 * wanted) ++unit;
      const int at = block + i + m;
      owners.row[at] = std::min(unit * kOwnedRows, shape.rows), owners.plane[at] = shape.plane(unit);
      owners.begin[at] = i == count ? shape.plane_rows : shape.begin(unit);
      if (i == 0) continue;
      owners.most_rows = std::max(owners.most_rows, owners.row[at] - owners.row[at - 1]);
      owners.most_planes = std::max(owners.most_planes, owners.plane[at] - owners.begin[at - 1]);
    }
    block += count;
  }
  owners.first[jobs] = block;
  return true;
}

// From rows and the highest rate alone, since parts know no more of the whole.
inline void bound_shares(const RowShape* shapes, int jobs, int multiprocessors, Owners& owners) {
  int64_t rows = 0, planes = 0;
  for (int m = 0; m < jobs; ++m) {
    const RowShape& shape = shapes[m];
    const int64_t whole = std::max(shape.whole_rows, shape.rows);
    rows += whole, planes += whole * *std::max_element(shape.rate, shape.rate + (shape.rows + kRangeRows - 1) / kRangeRows);
  }
  constexpr int kUneven = 2 * kOwnedRows;  // units are whole, and matrices have whole thread blocks
  owners.bound_rows = static_cast<int>(rows / multiprocessors) + kUneven;
  owners.bound_planes = static_cast<int>(planes / multiprocessors) + kUneven * (kRates - 1) + kMaxTaps;
}

// Thread blocks that own rows, where they won (lab/cuda-planes): one, or two that share the columns, so that a warp rounds one group, at
// most two. Clusters of more often find no place beside the launch before. False: rows are not to be owned, or cannot be.
inline bool plan_rows(const RowShape* shapes, int jobs, int groups, int multiprocessors, Owners& owners) {
  if (groups > 2 * kMaxRoundGroups) return false;
  bound_shares(shapes, jobs, multiprocessors, owners);
  return share_rows(shapes, jobs, groups > kProductWarps ? 2 : 1, multiprocessors, owners);
}

// The bands of a matrix, those of a rate behind each other, so that units have bands of one rate where they can. rate: [ranges].
inline std::vector<int32_t> bands_by_rate(const uint8_t* rate, int rows) {
  std::vector<int32_t> order(static_cast<size_t>(rows / kBandRows));
  std::iota(order.begin(), order.end(), 0);
  const auto rate_of = [&](int32_t band) { return rate[band * kBandRows / kRangeRows]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return rate_of(a) < rate_of(b); });
  return order;
}

// What a unit of bands costs for each group, about, in clocks of a multiprocessor (lab/cuda-planes): its bands decoded and multiplied,
// those of each rate in turn.
inline int unit_cost(const RowShape& shape, int unit, int form) {
  constexpr int kDecoded = 240, kDecodedRate = 150;
  const int product = form == 32 ? 370 : form == 64 ? 570 : form == 96 ? 800 : 1030;
  int rates = 0, cost = 0;
  for (int band = unit * kBandWarps; band < (unit + 1) * kBandWarps && band * kBandRows < shape.rows; ++band) {
    const int rate = shape.rate[(shape.band_order ? shape.band_order[band] : band) * kBandRows / kRangeRows];
    if (!(rates >> rate & 1)) rates |= 1 << rate, cost += kDecoded + kDecodedRate * rate + product;
  }
  return cost;
}

// A launch with decoded bands for `multiprocessors` thread blocks at most. False where a thread block would have too many sets.
inline bool split_bands(const RowShape* shapes, int jobs, int columns, int form, int multiprocessors, BandSplit& split) {
  split.groups = (columns + kGroupColumns - 1) / kGroupColumns;
  std::vector<int> costs;  // of each set
  int units = 0;
  for (int m = 0; m < jobs; ++m)
    for (int unit = 0; unit * kUnitRows < shapes[m].rows; ++unit, ++units) {
      if (units % kBandWorkers == 0) costs.push_back(0);
      costs.back() += unit_cost(shapes[m], unit, form);
    }
  split.sets = static_cast<int>(costs.size());
  split.blocks = static_cast<int>(std::min<int64_t>(std::min(multiprocessors, kMaxOwners), int64_t{split.sets} * split.groups));
  const int64_t all = std::accumulate(costs.begin(), costs.end(), int64_t{0}) * split.groups;
  int64_t before = 0;  // of the sets before
  for (int block = 0, set = 0; block <= split.blocks; ++block) {
    const int64_t wanted = all * block / split.blocks;
    while (set < split.sets && before + int64_t{costs[static_cast<size_t>(set)]} * split.groups <= wanted)
      before += int64_t{costs[static_cast<size_t>(set++)]} * split.groups;
    const int more = set < split.sets ? static_cast<int>((wanted - before) / costs[static_cast<size_t>(set)]) : 0;
    const int places = split.sets * split.groups;
    split.begin[block] = set * split.groups + more;
    if (block > 0)  // each has one at least
      split.begin[block] = std::clamp(split.begin[block], split.begin[block - 1] + 1, places - (split.blocks - block));
    if (block > 0 && (split.begin[block] - 1) / split.groups - split.begin[block - 1] / split.groups >= kMostSets) return false;
  }
  return true;
}

}  // namespace tq::cuda
