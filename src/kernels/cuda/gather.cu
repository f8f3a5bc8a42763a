// Own columns to all cards, and theirs into one's own memory, over NVLink or PCIe.
#include <algorithm>
#include <cstdio>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/prologue.cuh"

namespace tq::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostBlocks = 64;              // all of them are on the card at a time, whatever else runs there
constexpr long long kPatience = 6000000000;  // cycles: three seconds or more

__device__ __forceinline__ void send(uint4* slot, float first, float second, uint32_t number) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(slot), "r"(__float_as_uint(first)), "r"(number),
               "r"(__float_as_uint(second)), "r"(number)
               : "memory");
}
__device__ __forceinline__ uint4 look(const uint4* slot) {
  uint4 value;
  asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(slot)
               : "memory");
  return value;
}

// Until both flags are of this gather. A card whose partner never comes stops with a message.
__device__ __forceinline__ uint4 receive(const GatherArgs& args, int from, const uint4* slot, uint32_t number) {
  uint4 value = look(slot);
  if (value.y == number && value.w == number) return value;
  const long long start = clock64();
  while (value.y != number || value.w != number) {
    if (clock64() - start > kPatience) {
      printf("gather %u: part %d of %d waited in vain for part %d (block %d, thread %d, %d tokens of %d values, flags %u %u)\n", number,
             args.part, args.parts, from, blockIdx.x, threadIdx.x, args.tokens, args.width, value.y, value.w);
      __trap();
    }
    value = look(slot);
  }
  return value;
}

__device__ __forceinline__ void place(const GatherArgs& args, int part, int count, int element, float value) {
  const int row = args.tokens == 1 ? 0 : element / count;
  args.whole[static_cast<int64_t>(row) * args.width + args.bounds[part] + element - row * count] = value;
}

__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ GatherArgs args) {
  launch_dependents();
  dependency_wait();
  uint32_t number = *static_cast<volatile uint32_t*>(args.state) + 1;
  if (number == 0) number = kMailboxes;  // empty slots have 0
  const int thread = static_cast<int>(blockIdx.x * kThreads + threadIdx.x), threads = static_cast<int>(gridDim.x) * kThreads;
  const int64_t box = number % kMailboxes * static_cast<int64_t>(args.parts);
  const int own = args.bounds[args.part + 1] - args.bounds[args.part], sent = own * args.tokens;
  // A part without columns sends one slot, so that nobody runs ahead of it.
  for (int i = thread; 2 * i < max(sent, 1); i += threads) {
    float value[2] = {};
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int element = 2 * i + k;
      if (element >= sent) continue;
      value[k] = __ldcg(args.own + element);
      if (args.up) value[k] = activate(args.gate_kind, value[k]) * __ldcg(args.up + element);
    }
    for (int step = 1; step < args.parts; ++step) {
      const int to = (args.part + step) % args.parts;
      send(args.mailbox[to] + (box + args.part) * kSentSlots + i, value[0], value[1], number);
    }
#pragma unroll
    for (int k = 0; k < 2; ++k)
      if (2 * i + k < sent) place(args, args.part, own, 2 * i + k, value[k]);
  }
  for (int step = 1; step < args.parts; ++step) {
    const int from = (args.part + args.parts - step) % args.parts;
    const int count = args.bounds[from + 1] - args.bounds[from], expected = count * args.tokens;
    const uint4* slots = args.mailbox[args.part] + (box + from) * kSentSlots;
    for (int i = thread; 2 * i < max(expected, 1); i += threads) {
      const uint4 value = receive(args, from, slots + i, number);
      if (2 * i < expected) place(args, from, count, 2 * i, __uint_as_float(value.x));
      if (2 * i + 1 < expected) place(args, from, count, 2 * i + 1, __uint_as_float(value.z));
    }
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  if (add_acquire_release(args.state + 1, 1) + 1 < gridDim.x) return;
  args.state[1] = 0;
  args.state[0] = number;
}

}  // namespace

void gather_parts(const GatherArgs& args, cudaStream_t stream) {
  int most = 1;
  for (int i = 0; i < args.parts; ++i) most = std::max(most, (args.bounds[i + 1] - args.bounds[i]) * args.tokens);
  const int blocks = std::clamp((most / 2 + kThreads - 1) / kThreads, 1, kMostBlocks);
  launch(gather_kernel, dim3(static_cast<unsigned>(blocks)), kThreads, 0, stream, args);
}

}  // namespace tq::cuda
