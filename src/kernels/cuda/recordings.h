// Passes recorded as CUDA graphs and repeated.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>

#include "kernels/backend.h"

namespace tq::cuda {

class Recordings {
 public:
  Recordings() = default;
  Recordings(Recordings&&) = delete;
  ~Recordings();

  // How a pass is run best: the first time eagerly, so that memory grows; the second time recorded; then repeated, until some memory of it
  // has gone, which generation tells. What there was no memory to record is enqueued for a while.
  PassMode mode(uint64_t key, uint64_t generation) const;
  // Before its operations, in this mode or a lower one. Then they are enqueued, unless it is kRepeat.
  void begin(uint64_t key, PassMode mode, cudaStream_t stream);
  // After a recording: false without memory for it.
  bool end(cudaStream_t stream);
  // The end of a pass, begun or not: what was recorded runs.
  void finish(uint64_t generation, cudaStream_t stream);

 private:
  struct Recording {
    uint64_t generation = 0, used = 0;
    uint64_t enqueued_until = 0;  // a number of uses
    cudaGraphExec_t graph = nullptr;
  };
  static void drop_graph(Recording& recording);
  void make_room();

  std::map<uint64_t, Recording> recordings_;
  Recording* current_ = nullptr;
  PassMode mode_ = PassMode::kEnqueue;
  uint64_t uses_ = 0;
};

}  // namespace tq::cuda
