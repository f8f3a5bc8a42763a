// Which tiles and which rows a worker of the product with many tokens has (plane_many.cuh).
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plane_types.h"

namespace tq::cuda {

// What a worker multiplies at a time: four tiles in turn along the plane rows of a matrix.
struct ManyRound {
  int tile;  // the first one, counted in the matrix; negative: the ring's last
  int row;   // the first of those whose newest plane row is among these tiles and no halo
  uint8_t job, tiles;
  uint8_t first[kManyTiles + 1];  // of each tile, the first such row, counted from `row`; the last: of the next round
  uint8_t left;                   // rows of the run behind this round's, kReachRows at most
  bool is_first;                  // of the run
};

// Rows of tiles [begin, end) of a matrix that fall to a worker: the rows of outputs whose newest bits they are, and in front of them a halo
// of tiles, whose plane rows their windows reach (many_windows()).
struct ManyRun {
  const PlaneJob& job;
  int begin, end;
  int halo;  // tiles; before the first one of the matrix, the ring's last

  __device__ ManyRun(const PlaneJob& job_, int first, int last)
      : job(job_),
        begin(max(first - job.first_tile, 0)),
        end(min(last - job.first_tile, job.tile_count())),
        halo(begin > 0 ? 1 : job.tile_count() - job.closing_tile) {}
  // Plane rows of the last tile that there are none of.
  static __device__ int past_end(const PlaneJob& job) { return job.tile_count() * kTileRows - job.plane_rows; }
  // Rows whose newest plane row lies before a tile.
  __device__ int row_at(int tile) const {
    if (tile >= job.tile_count()) return job.rows;
    const int range = __ldg(job.reach + 2 * tile), rate = __ldg(job.rate + range);
    const int planes = tile * kTileRows - __ldg(job.newest + range);
    return min(range * kRangeRows + (planes > 0 ? (planes + rate - 1) / rate : 0), job.rows);
  }
  __device__ int rounds() const { return begin < end ? (halo + end - begin + kManyTiles - 1) / kManyTiles : 0; }
  __device__ void find_tiles(int index, int i, ManyRound& round) const {
    round.tile = begin - halo + i * kManyTiles, round.tiles = static_cast<uint8_t>(min(kManyTiles, end - round.tile));
    round.job = static_cast<uint8_t>(index), round.is_first = i == 0;
  }
  __device__ void find_rows(ManyRound& round) const {
    int row[kManyTiles + 1];
#pragma unroll
    for (int part = 0; part <= kManyTiles; ++part) row[part] = row_at(max(min(round.tile + part, end), begin));
    round.row = row[0];
#pragma unroll
    for (int part = 0; part <= kManyTiles; ++part) round.first[part] = static_cast<uint8_t>(row[part] - row[0]);
    round.left = static_cast<uint8_t>(min(kReachRows, row_at(end) - row[kManyTiles]));
  }
};

// What a row that takes from a warp's tile needs to be filtered.
struct alignas(16) ManyRow {
  int newest, rate;  // newest: its plane row, counted from the tile's first; far below: no row
  float scale, bias;
};
constexpr int kNoRow = -1000;

}  // namespace tq::cuda
