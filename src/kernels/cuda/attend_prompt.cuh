// Causal attention of many consecutive rows on the tensor cores (m16n8k16, halves in, floats out). The rows of a thread block are the
// queries of one head of keys, token by token and its heads within: row r of a stretch is token r / group, head r % group. Each warp has 16
// of them; tiles of positions pass by in shared memory, softmax is online.
#pragma once

#include "kernels/cuda/prompt_rows.cuh"

namespace tq::cuda {

// grid: tiles of rows x heads of keys; up to kMostWarps warps.
template <typename Form>
__global__ void __launch_bounds__(Form::kMostWarps * 32) attend_prompt_kernel(const __grid_constant__ AttendPromptArgs args) {
  extern __shared__ __align__(16) char prompt_shared[];
  launch_dependents();
  dependency_wait();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const PromptBlock block = block_of(args);
  PromptTiles<Form> tiles{args.kv, block, prompt_shared, thread, static_cast<int>(blockDim.x)};
  int tile = block.begin / Form::kPositions;
  const int end = (block.end + Form::kPositions - 1) / Form::kPositions;
  if (args.kv.head_dim < Form::kDim) tiles.clear();
  if (tiles.numbers_rows()) {
    tiles.row_numbers(tile)[thread] = tiles.row_number(tile);
    tiles.row_numbers(tile + 1)[thread] = tiles.row_number(tile + 1);
  }
  __syncthreads();
  tiles.copy(tile, Form::kIsStaged ? 0 : tile % 2);
  PromptRows<Form> rows;
  rows.place(args, block, warp, thread % 32);
  rows.load_query(args, prompt_shared + Form::kQueryAt + warp * Form::kWarpQuery);

  for (; tile < end; ++tile) {
    const int stage = Form::kIsStaged ? 0 : tile % 2;
    copy_wait<0>();
    tiles.find_largest();
    __syncthreads();  // the tile is there; the one before it is done with
    if (Form::kIsStaged) {
      tiles.convert();
      __syncthreads();
    }
    if (tile + 1 < end) tiles.copy(tile + 1, Form::kIsStaged ? 0 : 1 - stage);
    const int next_row = tiles.numbers_rows() ? tiles.row_number(tile + 2) : 0;
    const int first = tile * Form::kPositions;
    if (rows.sees(first))
      rows.add(args, tiles, first, shared_address(tiles.halves_of(stage, 0, 0)), shared_address(tiles.halves_of(stage, 1, 0)));
    if (tiles.numbers_rows()) tiles.row_numbers(tile)[thread] = next_row;
  }
  rows.store(args);
}

}  // namespace tq::cuda
