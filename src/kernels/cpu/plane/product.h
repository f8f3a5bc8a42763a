// The binary product: z[p] = sum_k S[p, k] x'[k] over the stored bits, for blocks of 128 plane rows. One variant per instruction set.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "kernels/cpu/plane/plane_input.h"

namespace tq::cpu {

constexpr int kMaxStreams = 3;  // that one pass over the bits serves

struct ProductArgs {
  const uint8_t* bits = nullptr;  // the lines of one block of 128 plane rows
  int64_t lines = 0;              // padded columns / 4
  int streams = 0;                // 1 to kMaxStreams
  StreamView stream[kMaxStreams] = {};
  float* z[kMaxStreams] = {};  // [128] each; streams of one token share it. Added to.
};

using ProductKernel = void (*)(const ProductArgs& args);
// Never null.
ProductKernel product_kernel(Isa isa);
const char* product_kernel_name(Isa isa);

}  // namespace tq::cpu
