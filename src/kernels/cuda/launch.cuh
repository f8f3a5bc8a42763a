// Launches with programmatic dependent launch where the device has it, and with one carve-out of shared memory for every kernel: a change
// of it between kernels costs microseconds.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/expect.h"

namespace tq::cuda {

// Of the card that is set.
inline int multiprocessors() {
  int device = 0, count = 0;
  expect(cudaGetDevice(&device), "its number");
  expect(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "its multiprocessors");
  return count;
}

// cluster: thread blocks in turn that are one; from compute capability 9.0 on.
template <typename... Parameters, typename... Args>
void launch_clusters(void (*kernel)(Parameters...), dim3 grid, dim3 cluster, int threads, int shared_bytes, cudaStream_t stream,
                     const Args&... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = cluster.x, attributes[1].val.clusterDim.y = cluster.y, attributes[1].val.clusterDim.z = cluster.z;
  config.attrs = attributes;
  config.numAttrs = cluster.x * cluster.y * cluster.z > 1 ? 2 : 1;
  expect(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100), "shared memory");
  if (shared_bytes > 48 << 10)
    expect(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "shared memory");
  expect(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...), "launch");
}

template <typename... Parameters, typename... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes, cudaStream_t stream, const Args&... args) {
  launch_clusters(kernel, grid, dim3(1), threads, shared_bytes, stream, args...);
}

}  // namespace tq::cuda
