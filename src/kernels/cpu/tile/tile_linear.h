// Many tokens times grid matrices, through integer tiles.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/plane/plane_matrix.h"
#include "kernels/cpu/tile/tile_kernels.h"

namespace tq::cpu {

// Activations in the order in which the kernels read them, in blocks of the kernel's tokens.
class TileInput {
 public:
  void pack(const PlaneInput& input, TileElement element, const TileKernels& kernels, ThreadPool& threads);
  int64_t blocks() const { return blocks_; }
  int64_t columns() const { return columns_; }  // padded
  int64_t block_bytes() const { return columns_ * block_tokens_ * bytes_; }
  int64_t scale_stride() const { return groups_ * block_tokens_; }
  const uint8_t* values(int64_t block) const { return values_.data() + block * block_bytes(); }
  const float* scale(int64_t block) const { return scale_.data() + block * groups_ * block_tokens_; }
  const int32_t* offset(int64_t block) const { return offset_.data() + block * groups_ * block_tokens_; }

 private:
  void pack_scales(const PlaneInput& input, int64_t place);
  int64_t blocks_ = 0, columns_ = 0, groups_ = 0, block_tokens_ = 0, bytes_ = 0;
  Buffer<uint8_t> values_;  // [blocks], each as the kernel packs it
  Buffer<float> scale_;     // [blocks][groups][tokens]
  Buffer<int32_t> offset_;  // [blocks][groups][tokens]
};

// Memory of tile_linear; grows and stays.
struct TileWorkspace {
  TileInput input;
  struct Thread {
    Buffer<uint8_t> panels;
    Buffer<float> sums;
  };
  std::vector<Thread> of_thread;
};

// All jobs share the input, in one or two streams a token. Results do not depend on the number of threads.
void tile_linear(std::span<const PlaneJob> jobs, const PlaneInput& input, Isa isa, ThreadPool& threads, TileWorkspace& workspace);

// 8-bit tiles where the instruction set has them and the activations are of 8 bits.
TileElement tile_element(bool high_precision, const TileKernels& kernels);

}  // namespace tq::cpu
