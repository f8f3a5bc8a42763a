// Attention of stretches of many rows: which form of the kernel, how many thread blocks.
#include "kernels/cuda/attend_prompt.cuh"

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace tq::cuda {
namespace {

constexpr int kFewWarps = 4;  // of a thread block where more would leave multiprocessors without one
constexpr int kGreatestDim = 256;

// Numbers the tiles of rows.
void share_out(AttendPromptArgs& args, int warps) {
  const int group = args.heads / args.kv.kv_heads, rows = warps * kWarpRows;
  args.tiles = 0;
  for (int s = 0; s < args.stretches; ++s) {
    args.stretch[s].first_tile = args.tiles;
    args.tiles += static_cast<int>((static_cast<int64_t>(args.stretch[s].tokens) * group + rows - 1) / rows);
  }
}

template <typename Form>
void start(AttendPromptArgs& args, int multiprocessors, cudaStream_t stream) {
  int warps = Form::kMostWarps;
  share_out(args, warps);
  if (args.tiles * args.kv.kv_heads < multiprocessors && warps > kFewWarps) share_out(args, warps = kFewWarps);
  launch(&attend_prompt_kernel<Form>, dim3(static_cast<unsigned>(args.tiles * args.kv.kv_heads)), warps * 32, Form::shared_bytes(warps),
         stream, args);
}

template <int kType, int kDim, int kPositions>
void start_terms(AttendPromptArgs& args, bool is_exact, int multiprocessors, cudaStream_t stream) {
  if constexpr (kType != 0) {
    if (!is_exact) return start<PromptForm<kType, kDim, 2, 1, kPositions>>(args, multiprocessors, stream);
  }
  start<PromptForm<kType, kDim, 2, 2, kPositions>>(args, multiprocessors, stream);
}

template <int kType>
void start_type(AttendPromptArgs& args, bool is_exact, int multiprocessors, cudaStream_t stream) {
  constexpr int kPositions = kType == 0 ? 32 : 64, kFew = kPositions / 2;
  if (args.kv.head_dim <= 64) start_terms<kType, 64, kPositions>(args, is_exact, multiprocessors, stream);
  else if (args.kv.head_dim <= 96) start_terms<kType, 96, kPositions>(args, is_exact, multiprocessors, stream);
  else if (args.kv.head_dim <= 128) start_terms<kType, 128, kPositions>(args, is_exact, multiprocessors, stream);
  else start_terms<kType, kGreatestDim, kFew>(args, is_exact, multiprocessors, stream);
}

bool is_aligned(const void* pointer, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace

bool attends_prompt(const AttendPromptArgs& args) {
  const KvArgs& kv = args.kv;
  return kv.head_dim % 8 == 0 && kv.head_dim <= kGreatestDim && args.stride % 2 == 0 && is_aligned(args.query, 8) &&
         is_aligned(args.output, 8) && is_aligned(kv.key, 16) && is_aligned(kv.value, 16);
}

void attend_prompt(AttendPromptArgs args, bool is_exact, int multiprocessors, cudaStream_t stream) {
  if (args.kv.type == 0) start_type<0>(args, is_exact, multiprocessors, stream);
  else if (args.kv.type == 1) start_type<1>(args, is_exact, multiprocessors, stream);
  else start_type<2>(args, is_exact, multiprocessors, stream);
}

}  // namespace tq::cuda
