#include "kernels/cpu/least_squares.h"

#include <algorithm>

// LAPACK, as OpenBLAS brings it; lapacke.h would need another package for two functions.
extern "C" void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);
extern "C" void spotrs_(const char* uplo, const int* n, const int* right, const float* a, const int* lda, float* b, const int* ldb,
                        int* info);

namespace tq::cpu {
namespace {

constexpr int64_t kRows = 128;  // of a right side that one thread takes at a time

}  // namespace

void product(const DenseProductArgs& args, FloatProducts& products) {
  products.run({.rows = args.rows,
                .columns = args.columns,
                .depth = args.depth,
                .left = args.left,
                .left_stride = args.depth,
                .right = args.right,
                .right_stride = args.columns,
                .output = args.output,
                .output_stride = args.columns,
                .accumulate = args.accumulate},
               ProductPrecision::kFloat);
}

bool solve(const SolveArgs& args, ThreadPool& threads) {
  const int64_t n = args.columns;
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += static_cast<double>(args.matrix[i * n + i]);
  for (int64_t i = 0; i < n; ++i) args.matrix[i * n + i] += static_cast<float>(args.ridge * trace / static_cast<double>(n));
  // Row-major below the diagonal is column-major above it, and rows of the right side are LAPACK's columns.
  const int size = static_cast<int>(n);
  int info = 0;
  spotrf_("U", &size, args.matrix, &size, &info);
  if (info != 0) return false;
  threads.run((args.rows + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t band = begin; band < end; ++band) {
      const int64_t first = band * kRows;
      const int count = static_cast<int>(std::min(kRows, args.rows - first));
      int done = 0;
      spotrs_("U", &size, &count, args.matrix, &size, args.right + first * n, &size, &done);
    }
  });
  return true;
}

}  // namespace tq::cpu
