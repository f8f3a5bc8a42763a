// Matrix products of floats by way of bfloat16, with float sums: what processors multiply fastest. A float is rounded to one bfloat16, or
// is the sum of two or three, whose products are added up.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "tensor/tensor_view.h"

namespace tq::cpu {

struct Bf16Kernel;  // kernels/cpu/bf16/bf16_kernel.h
// Any processor's, slow: what the others are compared with.
const Bf16Kernel& generic_bf16_kernel();
// Null where the instruction set has none.
const Bf16Kernel* bf16_kernel(Isa isa);

// A matrix of floats: of the left operand [rows, depth], of the right one [columns, depth].
struct Bf16Operand {
  const float* values = nullptr;
  int64_t stride = 0;        // floats from one row (or column) to the next
  int64_t depth_stride = 1;  // along the depth; one of the two is 1
};

constexpr int kMostBf16Terms = 3;

// output[r, c] (+)= sum_k left[r, k] right[c, k]
struct Bf16ProductArgs {
  Bf16Operand left, right;
  float* output = nullptr;  // rows output_stride apart
  int64_t output_stride = 0;
  int64_t rows = 0, columns = 0, depth = 0;
  bool accumulate = false;
  // bfloat16 numbers that a float is the sum of. With x = x_0 + x_1 + ..., each the rest rounded, products x_i y_j are taken where
  // i + j < 3: 1, 4 or 6 of them, and what is left out is at most 2^-8, 2^-17 or 2^-25 of |x||y|. With two terms, of the same operand on
  // both sides, a Gram matrix is that of what is nearly the operand.
  int terms = 1;
};

// Memory of a thread; grows and stays.
struct Bf16Workspace {
  Buffer<uint32_t> left, right;
};
// The order of every sum depends on depth and terms alone. Not for NaN and infinities, nor for what is less than 2^-126: that counts as 0.
void bf16_product(const Bf16ProductArgs& args, const Bf16Kernel& kernel, Bf16Workspace& workspace);

}  // namespace tq::cpu
