// Gradients of attention on the device: the probabilities of a tile of queries are made again by cuBLAS and a kernel of ours, so that
// memory grows with the tile alone.
#pragma once

#include "kernels/cuda/blas_product.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/training.h"

namespace tq::cuda {

// Grows and stays.
struct AttendBackwardWorkspace {
  DeviceMemory weight, slope;  // of a tile, ScoreTile
  DeviceMemory gathered;       // queries, gradients, gradients of queries, [kv_heads, queries * group, head_dim] each
};

void attend_backward(const AttendBackwardArgs& args, const Blas& blas, AttendBackwardWorkspace& workspace);

}  // namespace tq::cuda
