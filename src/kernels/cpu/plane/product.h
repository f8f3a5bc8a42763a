// The binary product: z[p] = sum_k S[p, k] x'[k] over the stored bits, for blocks of 128 plane rows. One variant per instruction set.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "kernels/cpu/plane/plane_input.h"

namespace tq::cpu {

constexpr int kMaxStreams = 3;         // that one pass over the bits serves
constexpr int64_t kProductBlocks = 2;  // that one call should get: as many streams from memory

struct ProductArgs {
  const uint8_t* bits = nullptr;  // the lines of the first block of 128 plane rows; the others follow it
  int64_t lines = 0;              // of a block: padded columns / 4
  int64_t blocks = 1;
  int streams = 0;  // 1 to kMaxStreams
  StreamView stream[kMaxStreams] = {};
  float* z[kMaxStreams] = {};  // [128 blocks] each; streams of one token share it. Added to.
};

using ProductKernel = void (*)(const ProductArgs& args);
// Never null.
ProductKernel product_kernel(Isa isa);
const char* product_kernel_name(Isa isa);

}  // namespace tq::cpu
