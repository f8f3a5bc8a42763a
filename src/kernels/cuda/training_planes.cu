// Gradients of the input of a matrix of planes, back to the original basis.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize.cuh"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

// A warp 256 columns of a token: grid (groups / kQuantizeWarps, tokens).
__global__ void __launch_bounds__(kQuantizeWarps * 32) unrotate_kernel(const Unrotate args) {
  launch_dependents();
  dependency_wait();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = static_cast<int>(blockIdx.x) * kQuantizeWarps + static_cast<int>(threadIdx.x) / 32;
  if (group * kGroupColumns >= args.columns) return;
  const int first = group * kGroupColumns + 8 * lane;
  const int64_t row = blockIdx.y * static_cast<int64_t>(args.columns);
  Group values;
#pragma unroll
  for (int i = 0; i < 8; ++i) values.value[i] = first + i < args.columns ? args.input[row + first + i] : 0.0f;
  values.hadamard(args.hadamard, lane);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int k = first + i;
    if (k >= args.columns) continue;
    const float value = args.sign[k / 8] >> (k % 8) & 1 ? -values.value[i] : values.value[i];
    args.output[row + k] = args.accumulate ? args.output[row + k] + value : value;
  }
}

}  // namespace

void unrotate(const Unrotate& args, cudaStream_t stream) {
  const int groups = (args.columns + kGroupColumns - 1) / kGroupColumns;
  launch(&unrotate_kernel, dim3(static_cast<unsigned>((groups + kQuantizeWarps - 1) / kQuantizeWarps), static_cast<unsigned>(args.tokens)),
         kQuantizeWarps * 32, 0, stream, args);
}

}  // namespace tq::cuda
