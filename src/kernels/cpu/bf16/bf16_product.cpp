#include "kernels/bf16_product.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "kernels/cpu/bf16/bf16_kernel.h"
#include "kernels/cpu/grow.h"

namespace tq::cpu {
namespace {

// Of the depth, multiplied at once: two packed panels and the output's block stay in the first-level cache.
constexpr int64_t kPartSteps = 16;
constexpr int64_t kPackedBytes = 1024 << 10;  // of each operand: both stay in the second-level cache

// Panels of one operand side by side, for a part of the depth.
struct Packing {
  void (*pack)(const Bf16PackArgs&);
  Bf16Operand operand;  // from the first row and depth on
  int64_t count, depth, width;
  int terms;

  int64_t panels() const { return (count + width - 1) / width; }
  int64_t term_size() const { return bf16_steps(depth) * kBf16StepPairs * width; }
  int64_t panel_size() const { return term_size() * terms; }

  void run(uint32_t* out) const {
    const bool is_along = operand.depth_stride == 1;
    const int64_t stretch = is_along ? depth : kBf16StepDepth;  // as it lies in memory
    for (int64_t first = 0; first < depth; first += stretch)
      for (int64_t panel = 0; panel < panels(); ++panel) {
        Bf16Operand from = operand;
        from.values += panel * width * operand.stride + first * operand.depth_stride;
        pack({.operand = from,
              .count = std::min(width, count - panel * width),
              .width = width,
              .depth = std::min(stretch, depth - first),
              .panel = out + panel * panel_size() + first / 2 * width,
              .term_stride = term_size(),
              .terms = terms});
      }
  }
};

// Rows or columns of an operand whose packed panels fit their share of the cache.
int64_t range_of(int64_t count, int64_t width, int64_t depth, int terms) {
  const int64_t most = std::max<int64_t>(1, kPackedBytes / (bf16_steps(depth) * kBf16StepDepth * width * 2 * terms));
  const int64_t panels = (count + width - 1) / width, ranges = (panels + most - 1) / most;
  return (panels + ranges - 1) / ranges * width;
}

// A part of the output, from packed operands.
class Region {
 public:
  Region(const Bf16Kernel& kernel, const Packing& left, const uint32_t* packed_left, const Packing& right, const uint32_t* packed_right)
      : kernel_(kernel), left_(left), right_(right), packed_left_(packed_left), packed_right_(packed_right) {}

  void multiply(float* output, int64_t stride, bool accumulate) const {
    for (int64_t r = 0; r < left_.panels(); ++r)
      for (int64_t c = 0; c < right_.panels(); ++c) {
        float* to = output + r * kernel_.rows * stride + c * kernel_.columns;
        const int64_t rows = std::min(kernel_.rows, left_.count - r * kernel_.rows);
        const int64_t columns = std::min(kernel_.columns, right_.count - c * kernel_.columns);
        if (rows == kernel_.rows && columns == kernel_.columns) multiply_block(r, c, to, stride, accumulate);
        else multiply_edge(r, c, to, stride, accumulate, rows, columns);
      }
  }

 private:
  void multiply_block(int64_t r, int64_t c, float* to, int64_t stride, bool accumulate) const {
    std::array<Bf16Panels, 6> panels;
    int64_t count = 0;
    for (int order = std::min(2 * (left_.terms - 1), kMostBf16Terms - 1); order >= 0; --order)  // the smallest first
      for (int i = std::max(0, order - left_.terms + 1); i <= std::min(order, left_.terms - 1); ++i)
        panels[static_cast<size_t>(count++)] = {packed_left_ + r * left_.panel_size() + i * left_.term_size(),
                                                packed_right_ + c * right_.panel_size() + (order - i) * right_.term_size()};
    kernel_.multiply({.panels = panels.data(),
                      .panel_pairs = count,
                      .steps = bf16_steps(left_.depth),
                      .output = to,
                      .output_stride = stride,
                      .accumulate = accumulate});
  }

  void multiply_edge(int64_t r, int64_t c, float* to, int64_t stride, bool accumulate, int64_t rows, int64_t columns) const {
    alignas(64) float sums[kMostBlock];
    TQ_CHECK(kernel_.rows * kernel_.columns <= kMostBlock);
    multiply_block(r, c, sums, kernel_.columns, false);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        float& out = to[i * stride + j];
        out = accumulate ? out + sums[i * kernel_.columns + j] : sums[i * kernel_.columns + j];
      }
  }

  static constexpr int64_t kMostBlock = 1024;
  const Bf16Kernel& kernel_;
  const Packing& left_;
  const Packing& right_;
  const uint32_t* packed_left_;
  const uint32_t* packed_right_;
};

// Depths [first, first + depth).
void add_part(const Bf16ProductArgs& args, const Bf16Kernel& kernel, int64_t first, int64_t depth, Bf16Workspace& workspace) {
  const int64_t rows = range_of(args.rows, kernel.rows, depth, args.terms),
                columns = range_of(args.columns, kernel.columns, depth, args.terms);
  const auto packing = [&](const Bf16Operand& operand, int64_t from, int64_t count, int64_t width, auto pack) {
    const Bf16Operand part{operand.values + from * operand.stride + first * operand.depth_stride, operand.stride, operand.depth_stride};
    return Packing{pack, part, count, depth, width, args.terms};
  };
  for (int64_t c = 0; c < args.columns; c += columns) {
    const Packing right = packing(args.right, c, std::min(columns, args.columns - c), kernel.columns, kernel.pack_right);
    uint32_t* packed_right = grow(workspace.right, right.panels() * right.panel_size());
    right.run(packed_right);
    for (int64_t r = 0; r < args.rows; r += rows) {
      const Packing left = packing(args.left, r, std::min(rows, args.rows - r), kernel.rows, kernel.pack_left);
      uint32_t* packed_left = grow(workspace.left, left.panels() * left.panel_size());
      if (c == 0 || rows < args.rows) left.run(packed_left);
      Region(kernel, left, packed_left, right, packed_right)
          .multiply(args.output + r * args.output_stride + c, args.output_stride, args.accumulate || first > 0);
    }
  }
}

}  // namespace

void bf16_product(const Bf16ProductArgs& args, const Bf16Kernel& kernel, Bf16Workspace& workspace) {
  TQ_CHECK(args.terms >= 1 && args.terms <= kMostBf16Terms);
  if (args.rows <= 0 || args.columns <= 0) return;
  if (args.depth == 0 && !args.accumulate)
    for (int64_t r = 0; r < args.rows; ++r) std::fill_n(args.output + r * args.output_stride, args.columns, 0.0f);
  // Equal parts, of whole steps.
  const int64_t steps = bf16_steps(args.depth), parts = (steps + kPartSteps - 1) / kPartSteps;
  const int64_t part = parts > 0 ? (steps + parts - 1) / parts * kBf16StepDepth : 0;
  if (kernel.begin) kernel.begin();
  for (int64_t first = 0; first < args.depth; first += part) add_part(args, kernel, first, std::min(part, args.depth - first), workspace);
  if (kernel.end) kernel.end();
}

}  // namespace tq::cpu
