// Matrix products of floats that are rounded to bfloat16 on the way, with float sums: what training needs, twice as fast where the
// processor multiplies pairs of them.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "tensor/tensor_view.h"

namespace tq::cpu {

constexpr int64_t kBf16Rows = 12, kBf16Columns = 32;  // of the output that a kernel has in registers

// sums[12][32] += left · right. Pairs along the depth, the earlier in the lower half: left [pairs][12], right [pairs][32].
using Bf16Kernel = void (*)(const uint32_t* left, const uint32_t* right, int64_t pairs, float* sums);
// Any processor's, slow: what the others are compared with.
void bf16_kernel_generic(const uint32_t* left, const uint32_t* right, int64_t pairs, float* sums);
// Null where the instruction set has none.
Bf16Kernel bf16_kernel(Isa isa);

// A matrix of floats: of the left operand [rows, depth], of the right one [columns, depth].
struct Bf16Operand {
  const float* values = nullptr;
  int64_t stride = 0;        // floats from one row (or column) to the next
  int64_t depth_stride = 1;  // along the depth; one of the two is 1
};

// output[r, c] (+)= sum_k left[r, k] right[c, k]
struct Bf16ProductArgs {
  Bf16Operand left, right;
  float* output = nullptr;  // rows output_stride apart
  int64_t output_stride = 0;
  int64_t rows = 0, columns = 0, depth = 0;
  bool accumulate = false;
};

// Memory of a thread; grows and stays.
struct Bf16Workspace {
  Buffer<uint32_t> left, right;
};
// The order of every sum depends on the depth alone.
void bf16_product(const Bf16ProductArgs& args, Bf16Kernel kernel, Bf16Workspace& workspace);

}  // namespace tq::cpu
