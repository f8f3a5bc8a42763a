#include "kernels/float_products.h"

#include <algorithm>

#include "base/blas.h"
#include "base/check.h"
#include "kernels/cpu/bf16/bf16_kernel.h"

namespace tq {
namespace {

// What one thread multiplies at a time, at most.
constexpr int64_t kMostRows = 1024, kMostColumns = 1536;

// The equal parts that a range is cut into.
struct Parts {
  int64_t size, count, edge;
  Parts(int64_t range, int64_t wanted) : size(range), count(0), edge(0) {
    if (range == 0) return;
    constexpr int64_t kUnit = 32;  // of a kernel's block
    edge = ((range + wanted - 1) / wanted + kUnit - 1) / kUnit * kUnit;
    count = (range + edge - 1) / edge;
  }
  int64_t first(int64_t i) const { return i * edge; }
  int64_t length(int64_t i) const { return std::min(edge, size - first(i)); }
};

struct Tiling {
  Parts down, across;
};

// For BLAS, whose sums may depend on a tile's shape: the same on any number of threads.
Tiling fixed_tiling(int64_t rows, int64_t columns) {
  constexpr int64_t kRows = 512, kColumns = 384;
  return {{rows, (rows + kRows - 1) / kRows}, {columns, (columns + kColumns - 1) / kColumns}};
}

// For kernels whose sums depend on the depth alone. Tiles for all threads: equal work, little that is packed again.
Tiling tiling_of(int64_t rows, int64_t columns, int64_t threads) {
  constexpr int64_t kMostRounds = 4;
  Tiling best{{rows, 1}, {columns, 1}};
  int64_t best_cost = -1;
  const int64_t least_down = (rows + kMostRows - 1) / kMostRows, least_across = (columns + kMostColumns - 1) / kMostColumns;
  const int64_t most = std::max(kMostRounds * threads, 4 * least_down * least_across);
  for (int64_t down = least_down; down <= most; ++down)
    for (int64_t across = least_across; down * across <= most; ++across) {
      const Tiling tiling{{rows, down}, {columns, across}};
      const int64_t count = tiling.down.count * tiling.across.count, rounds = (count + threads - 1) / threads;
      // As if all were as slow as the thread that has the most, in products and in what it packs; one value costs some 30 products.
      const int64_t area = tiling.down.edge * tiling.across.edge + 30 * (tiling.down.edge + tiling.across.edge);
      const int64_t cost = rounds * area;
      if (best_cost < 0 || cost < best_cost) best = tiling, best_cost = cost;
    }
  return best;
}

FloatProduct tile_of(const FloatProduct& whole, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  FloatProduct tile = whole;
  tile.rows = rows, tile.columns = columns;
  tile.left += whole.is_left_transposed ? row : row * whole.left_stride;
  tile.right += whole.is_right_transposed ? column * whole.right_stride : column;
  tile.output += row * whole.output_stride + column;
  if (whole.bias) tile.bias += column;
  return tile;
}

void multiply_by_blas(const FloatProduct& p) {
  cblas_sgemm(CblasRowMajor, p.is_left_transposed ? CblasTrans : CblasNoTrans, p.is_right_transposed ? CblasTrans : CblasNoTrans,
              static_cast<int>(p.rows), static_cast<int>(p.columns), static_cast<int>(p.depth), 1.0f, p.left,
              static_cast<int>(p.left_stride), p.right, static_cast<int>(p.right_stride), p.accumulate ? 1.0f : 0.0f, p.output,
              static_cast<int>(p.output_stride));
}

void multiply_by_bf16(const FloatProduct& p, const cpu::Bf16Kernel& kernel, int terms, cpu::Bf16Workspace& workspace) {
  const auto operand = [](const float* values, int64_t stride, bool is_along) {
    return is_along ? cpu::Bf16Operand{values, stride, 1} : cpu::Bf16Operand{values, 1, stride};
  };
  cpu::bf16_product({.left = operand(p.left, p.left_stride, !p.is_left_transposed),
                     .right = operand(p.right, p.right_stride, p.is_right_transposed),
                     .output = p.output,
                     .output_stride = p.output_stride,
                     .rows = p.rows,
                     .columns = p.columns,
                     .depth = p.depth,
                     .accumulate = p.accumulate,
                     .terms = terms},
                    kernel, workspace);
}

}  // namespace

FloatProduct product_of(const WeightGradientArgs& args) {
  return {.rows = args.rows,
          .columns = args.columns,
          .depth = args.tokens,
          .left = args.gradient + args.first_row,
          .left_stride = args.all_rows,
          .is_left_transposed = true,
          .right = args.input,
          .right_stride = args.columns,
          .output = args.weight_gradient,
          .output_stride = args.columns,
          .accumulate = true};
}

FloatProducts::FloatProducts(ThreadPool& threads, const cpu::Bf16Kernel* bf16)
    : threads_(&threads), bf16_(bf16), workspaces_(static_cast<size_t>(threads.size())) {
  use_one_blas_thread();
}

int FloatProducts::terms_of(ProductPrecision precision) const {
  return !bf16_ ? 0 : precision == ProductPrecision::kTraining ? 1 : bf16_->float_terms;
}

void FloatProducts::run(std::span<const FloatProduct> products, ProductPrecision precision) {
  const bool is_by_blas = terms_of(precision) == 0;
  std::vector<FloatProduct> tiles;
  for (const FloatProduct& product : products) {
    if (product.rows == 0 || product.columns == 0) continue;
    const auto [down, across] =
        is_by_blas ? fixed_tiling(product.rows, product.columns) : tiling_of(product.rows, product.columns, threads_->size());
    for (int64_t y = 0; y < down.count; ++y)
      for (int64_t x = 0; x < across.count; ++x)
        tiles.push_back(tile_of(product, down.first(y), down.length(y), across.first(x), across.length(x)));
  }
  threads_->run(static_cast<int64_t>(tiles.size()), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) run_on(thread, tiles[static_cast<size_t>(i)], precision);
  });
}

void FloatProducts::run_on(int thread, const FloatProduct& product, ProductPrecision precision) {
  TQ_CHECK(!(product.bias && product.accumulate));
  FloatProduct sum = product;
  if (product.bias) {
    for (int64_t r = 0; r < product.rows; ++r) std::copy_n(product.bias, product.columns, product.output + r * product.output_stride);
    sum.accumulate = true;
  }
  const int terms = terms_of(precision);
  if (terms == 0) multiply_by_blas(sum);
  else multiply_by_bf16(sum, *bf16_, terms, workspaces_[static_cast<size_t>(thread)]);
}

}  // namespace tq
