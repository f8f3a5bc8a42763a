// In place of the CUDA backend in a build without it.
#include "kernels/cuda/cuda_backend.h"

namespace tq {

Result<std::unique_ptr<Backend>> make_cuda_backend(ThreadPool&, const CudaOptions&) {
  return fail(ErrorCode::kUsage,
              "this program was built without CUDA; build it with scripts/build build/cuda -DTQ_CUDA=ON, or use --backend cpu");
}

}  // namespace tq
