// Where the rows of a batch belong, and which tokens they are, in device memory.
#pragma once

#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/dense_args.h"
#include "kernels/cuda/scratch.h"

namespace tq::cuda {

class Places {
 public:
  // generation: grows when memory that a recording may use has gone.
  explicit Places(uint64_t& generation) : generation_(generation) {}

  // Of a whole pass, for all operations until end().
  void begin(const PassArgs& pass, cudaStream_t stream);
  void end() { in_pass_ = false; }
  bool in_pass() const { return in_pass_; }
  // Whether a pass has one token a stretch, so that nothing of it but its memory's content changes from token to token.
  static bool is_repeatable(const PassArgs& pass);
  // Of an operation's rows: in a pass they are there already.
  const Place* of(std::span<const Stretch> stretches, cudaStream_t stream);
  // In the device's memory: where the pass has written them, or uploaded.
  const int32_t* tokens(std::span<const int32_t> tokens, cudaStream_t stream);
  // Memory for `rows` rows. Errors: kNoResource.
  Status reserve(int64_t rows);

 private:
  void set(std::span<const Stretch> stretches, std::span<const int32_t> tokens, cudaStream_t stream);

  uint64_t& generation_;
  PassArgs pass_;
  bool in_pass_ = false, is_single_ = false;
  Scratch places_, tokens_, other_tokens_;
};

}  // namespace tq::cuda
