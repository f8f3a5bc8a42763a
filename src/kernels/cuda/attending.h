// Attention of a backend: which kernel, among how many thread blocks positions are split, and the memory for it.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/places.h"

namespace tq::cuda {

KvArgs kv_args(const KvView& kv);

class Attending {
 public:
  struct Shape {
    int64_t multiprocessors;
    int64_t parts;  // cards that share the heads
    bool has_clusters;
  };
  // generation: grows when memory that a recording may use has gone. Both must outlive it.
  Attending(const Shape& shape, Places& places, uint64_t& generation) : shape_(shape), places_(places), generation_(generation) {}

  // Errors: kNoResource.
  Status open(cudaStream_t stream);
  // Memory for up to `rows` rows of such attention. Errors: kNoResource.
  Status reserve(const AttendArgs& args, int64_t rows);

  // Stretches of many rows and the others, in runs of one kind that stand side by side.
  void run(const AttendArgs& args, cudaStream_t stream);
  // One token a stretch, which are rotated and stored in the same launch.
  static bool is_single(const AttendArgs& args);
  void run_single(const AttendArgs& args, const RotateArgs& rotate, cudaStream_t stream);

 private:
  int64_t splits_of(const AttendArgs& args, int64_t tokens) const;
  AttendArgsDevice device_args(const AttendArgs& args, int64_t tokens, cudaStream_t stream);
  void run_rows(const AttendArgs& args, cudaStream_t stream);
  bool run_prompts(const AttendArgs& args, cudaStream_t stream);

  Shape shape_;
  Places& places_;
  uint64_t& generation_;
  DeviceMemory arrived_;
  Scratch partial_;
};

}  // namespace tq::cuda
