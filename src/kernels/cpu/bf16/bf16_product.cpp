#include "kernels/bf16_product.h"

#include <algorithm>
#include <bit>

namespace tq::cpu {
namespace {

constexpr int64_t kDepth = 512;  // of a block: 32 packed columns stay in the first-level cache

// To nearest, ties to even; in the upper half. Not for NaN, which training has stopped for.
uint32_t rounded(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
}

uint32_t pair_of(float early, float late) { return rounded(early) >> 16 | rounded(late); }

uint32_t* grow(Buffer<uint32_t>& buffer, int64_t count) {
  if (buffer.size() < static_cast<size_t>(count)) buffer = Buffer<uint32_t>::uninitialized(static_cast<size_t>(count));
  return buffer.data();
}

// Rows [0, count) of the operand and depths [first, first + depth) -> panels [width rows][pairs], zeros where there is nothing.
struct Packing {
  Bf16Operand operand;
  int64_t count, first, depth, width;

  int64_t pairs() const { return (depth + 1) / 2; }
  int64_t panels() const { return (count + width - 1) / width; }

  void pack(uint32_t* out) const {
    for (int64_t panel = 0; panel < panels(); ++panel, out += pairs() * width) {
      const int64_t row = panel * width, here = std::min(width, count - row);
      if (here < width) std::fill_n(out, pairs() * width, 0u);
      const float* from = operand.values + row * operand.stride + first * operand.depth_stride;
      if (operand.stride == 1) pack_across(from, here, out);
      else pack_along(from, here, out);
    }
  }

  // Neighbours in memory are rows.
  void pack_across(const float* from, int64_t here, uint32_t* out) const {
    for (int64_t k = 0; k < depth; k += 2, out += width) {
      const float* early = from + k * operand.depth_stride;
      const float* late = early + operand.depth_stride;
      if (k + 1 < depth)
        for (int64_t r = 0; r < here; ++r) out[r] = pair_of(early[r], late[r]);
      else
        for (int64_t r = 0; r < here; ++r) out[r] = pair_of(early[r], 0.0f);
    }
  }

  // Neighbours in memory are depths.
  void pack_along(const float* from, int64_t here, uint32_t* out) const {
    for (int64_t r = 0; r < here; ++r) {
      const float* row = from + r * operand.stride;
      for (int64_t k = 0; k + 1 < depth; k += 2) out[k / 2 * width + r] = pair_of(row[k], row[k + 1]);
      if (depth % 2 == 1) out[depth / 2 * width + r] = pair_of(row[depth - 1], 0.0f);
    }
  }
};

void write(const Bf16ProductArgs& args, int64_t row, int64_t column, const float* sums, bool is_added) {
  const int64_t rows = std::min(kBf16Rows, args.rows - row), columns = std::min(kBf16Columns, args.columns - column);
  for (int64_t r = 0; r < rows; ++r) {
    float* out = args.output + (row + r) * args.output_stride + column;
    const float* from = sums + r * kBf16Columns;
    if (is_added)
      for (int64_t c = 0; c < columns; ++c) out[c] += from[c];
    else
      for (int64_t c = 0; c < columns; ++c) out[c] = from[c];
  }
}

}  // namespace

void bf16_kernel_generic(const uint32_t* left, const uint32_t* right, int64_t pairs, float* sums) {
  const auto early = [](uint32_t pair) { return std::bit_cast<float>(pair << 16); };
  const auto late = [](uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); };
  for (int64_t k = 0; k < pairs; ++k, left += kBf16Rows, right += kBf16Columns)
    for (int64_t r = 0; r < kBf16Rows; ++r)
      for (int64_t c = 0; c < kBf16Columns; ++c)
        sums[r * kBf16Columns + c] += early(left[r]) * early(right[c]) + late(left[r]) * late(right[c]);
}

void bf16_product(const Bf16ProductArgs& args, Bf16Kernel kernel, Bf16Workspace& workspace) {
  if (args.depth == 0 && !args.accumulate)
    for (int64_t r = 0; r < args.rows; ++r) std::fill_n(args.output + r * args.output_stride, args.columns, 0.0f);
  for (int64_t first = 0; first < args.depth; first += kDepth) {
    const int64_t depth = std::min(kDepth, args.depth - first);
    const Packing left{args.left, args.rows, first, depth, kBf16Rows}, right{args.right, args.columns, first, depth, kBf16Columns};
    const int64_t pairs = left.pairs();
    uint32_t* packed_left = grow(workspace.left, left.panels() * kBf16Rows * pairs);
    uint32_t* packed_right = grow(workspace.right, right.panels() * kBf16Columns * pairs);
    left.pack(packed_left);
    right.pack(packed_right);
    for (int64_t c = 0; c < right.panels(); ++c)
      for (int64_t r = 0; r < left.panels(); ++r) {
        alignas(64) float sums[kBf16Rows * kBf16Columns] = {};
        kernel(packed_left + r * kBf16Rows * pairs, packed_right + c * kBf16Columns * pairs, pairs, sums);
        write(args, r * kBf16Rows, c * kBf16Columns, sums, first > 0 || args.accumulate);
      }
  }
}

#if !defined(__x86_64__)
Bf16Kernel bf16_kernel(Isa) { return nullptr; }
#endif

}  // namespace tq::cpu
