// What a kernel of bfloat16 products is: the block of the output that it makes at a time, how it packs what it reads, and how it
// multiplies.
#pragma once

#include <cstdint>

#include "kernels/bf16_product.h"

namespace tq::cpu {

// Packed panels hold pairs along the depth, the earlier in the lower half, and steps of 16 pairs, zeros where there is nothing:
// the left operand's [steps][rows][16], the right one's [steps][16][columns].
constexpr int64_t kBf16StepPairs = 16, kBf16StepDepth = 2 * kBf16StepPairs;
constexpr int64_t bf16_steps(int64_t depth) { return (depth + kBf16StepDepth - 1) / kBf16StepDepth; }

// A panel: up to `width` rows of the left operand or columns of the right one.
struct Bf16PackArgs {
  Bf16Operand operand;  // from the panel's first value on
  int64_t count = 0, width = 0, depth = 0;
  uint32_t* panel = nullptr;  // of the first term; that of each other term lies term_stride after the one before
  int64_t term_stride = 0;
  int terms = 1;
};

struct Bf16Panels {
  const uint32_t *left, *right;
};
// output[rows][columns] (+)= the sum of the products of all pairs of panels, in their order.
struct Bf16BlockArgs {
  const Bf16Panels* panels = nullptr;
  int64_t panel_pairs = 0;
  int64_t steps = 0;
  float* output = nullptr;  // rows output_stride apart
  int64_t output_stride = 0;
  bool accumulate = false;
};

struct Bf16Kernel {
  int64_t rows, columns;  // of a block
  int float_terms;        // that make it as good as float and still faster than BLAS; 0: none
  void (*pack_left)(const Bf16PackArgs&);
  void (*pack_right)(const Bf16PackArgs&);
  void (*multiply)(const Bf16BlockArgs&);
  // Around the calls of multiply() for a product, on the same thread; or null.
  void (*begin)();
  void (*end)();
};

// Compiled for AVX-512 with BF16.
void pack_left_avx512(const Bf16PackArgs& args);
void pack_right_avx512(const Bf16PackArgs& args);
const Bf16Kernel& avx512_bf16_kernel();
const Bf16Kernel& amx_bf16_kernel();

}  // namespace tq::cpu
