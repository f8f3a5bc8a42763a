// Passes recorded as CUDA graphs and repeated.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <map>

namespace tq::cuda {

class Recordings {
 public:
  Recordings() = default;
  Recordings(Recordings&&) = delete;
  ~Recordings();

  // Runs `enqueue`, which works on the stream: the first time eagerly, so that memory grows; the second time recorded; then repeated, until
  // some memory of it has gone, which generation tells. Without memory for a recording it stays eager.
  void run(uint64_t key, const uint64_t& generation, cudaStream_t stream, const std::function<void()>& enqueue);

 private:
  struct Recording {
    uint64_t generation = 0, used = 0;
    cudaGraphExec_t graph = nullptr;
  };
  void forget(std::map<uint64_t, Recording>::iterator recording);
  void make_room();

  std::map<uint64_t, Recording> recordings_;
  uint64_t uses_ = 0;
};

}  // namespace tq::cuda
