// Launches with programmatic dependent launch where the device has it, and with one carve-out of shared memory for every kernel: a change
// of it between kernels costs microseconds.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/expect.h"

namespace tq::cuda {

template <typename... Parameters, typename... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes, cudaStream_t stream, const Args&... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  expect(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100), "shared memory");
  if (shared_bytes > 48 << 10)
    expect(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "shared memory");
  expect(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...), "launch");
}

}  // namespace tq::cuda
