// Attention of many consecutive rows: the forms of its kernel, and what a thread block works on.
#pragma once

#include "kernels/cuda/dense_args.h"
#include "kernels/cuda/half_terms.cuh"

namespace tq::cuda {

constexpr int kWarpRows = 16;
constexpr int kUnitExponent = 13;      // where such scaling puts the largest exponent
constexpr float kWeightExponent = 15;  // weights of the softmax are up to 2^15 in halves, so that small ones keep their bits
constexpr float kLog2E = 1.44269504f;

// How a kernel works: KvType, head_dim at most, the halves that a query and a weight are the sum of, positions of a tile.
template <int kTypeOf, int kDimOf, int kQueryTermsOf, int kWeightTermsOf, int kPositionsOf>
struct PromptForm {
  static constexpr int kType = kTypeOf, kDim = kDimOf, kQueryTerms = kQueryTermsOf, kWeightTerms = kWeightTermsOf;
  static constexpr int kPositions = kPositionsOf;
  static constexpr bool kIsStaged = kType != 1;               // keys and values arrive raw and are converted
  static constexpr int kTerms = kType == 0 ? 2 : 1;           // of a key or value
  static constexpr int kSteps = kDim / 16;                    // products of 16 dimensions
  static constexpr int kHeld = kDim > 128 ? 1 : kQueryTerms;  // terms of the query in registers, the others in shared memory
  static constexpr int kMostWarps = kDim > 128 ? 4 : 8;
  static constexpr int kPart = kSteps % 4 == 0 ? 4 : 3;  // pairs of value columns whose fragments are read together
  static constexpr int kKeyPart = kPositions >= 64 ? 4 : kPositions / 16;

  // Shared memory in bytes. Rows are 16 bytes longer than they need be: eight of them at the same column lie in different banks.
  static constexpr int kRow = kDim * 2 + 16, kTile = kPositions * kRow;
  static constexpr int kStage = 2 * kTerms * kTile;
  static constexpr int kRawRow = kType == 0 ? kDim * 4 : kDim, kRawSide = kIsStaged ? kPositions * kRawRow : 0;
  static constexpr int kScaleSide = kType == 2 ? kPositions * 4 : 0;
  static constexpr int kRawAt = (kIsStaged ? 1 : 2) * kStage;
  static constexpr int kScaleAt = kRawAt + 2 * kRawSide;         // as they arrive
  static constexpr int kKeyScaleAt = kScaleAt + 2 * kScaleSide;  // of the tile that is multiplied
  static constexpr int kRowNumberAt = kKeyScaleAt + kScaleSide;
  static constexpr int kLargestAt = kRowNumberAt + 2 * kPositions * 4;
  static constexpr int kQueryAt = kLargestAt + 2 * kMostWarps * 4;
  static constexpr int kWarpQuery = (kQueryTerms - kHeld) * kSteps * 512;
  static constexpr int shared_bytes(int warps) { return kQueryAt + warps * kWarpQuery; }
  static_assert(kDim % 16 == 0 && kPositions % 16 == 0 && (kPositions / 16) % kKeyPart == 0 && kSteps % kPart == 0 && kQueryAt % 16 == 0);
};

// Term t of two values.
__device__ __forceinline__ uint32_t term_of(int t, float low, float high) { return t == 0 ? halves(low, high) : rest_of_halves(low, high); }

// What a thread block works on.
struct PromptBlock {
  const int32_t* pages;
  int kv_head, group;
  int first_row, rows;  // of the stretch, in the thread block
  int64_t first_token;  // of the stretch, in the batch
  int first_position;   // of the stretch
  int begin, end;       // positions that its rows see
  __device__ int position(int row) const { return first_position + row / group; }
};

__device__ __forceinline__ PromptBlock block_of(const AttendPromptArgs& args) {
  PromptBlock block;
  block.group = args.heads / args.kv.kv_heads;
  const int index = static_cast<int>(blockIdx.x), block_rows = static_cast<int>(blockDim.x) / 32 * kWarpRows;
  const int tile = args.tiles - 1 - index / args.kv.kv_heads;  // the longest come first
  block.kv_head = index % args.kv.kv_heads;
  int s = args.stretches - 1;
  while (args.stretch[s].first_tile > tile) --s;
  const PromptStretch& stretch = args.stretch[s];
  block.first_row = (tile - stretch.first_tile) * block_rows;
  block.rows = min(block_rows, stretch.tokens * block.group - block.first_row);
  block.first_token = stretch.first_row;
  const Place& place = args.place[stretch.first_row];
  block.pages = place.pages, block.first_position = static_cast<int>(place.position);
  block.end = block.position(block.first_row + block.rows - 1) + 1;
  block.begin = args.window > 0 ? max(0, block.position(block.first_row) + 1 - args.window) : 0;
  return block;
}

}  // namespace tq::cuda
