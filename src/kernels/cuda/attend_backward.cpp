#include "kernels/cuda/attend_backward.h"

#include <algorithm>

#include "kernels/cuda/expect.h"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

constexpr int64_t kTileFloats = int64_t{32} << 20;
constexpr int64_t kLeastQueries = 16, kMostQueries = 1024;

// A tile of queries against the keys that they see. The queries of the heads that share keys are gathered side by side, so that one
// product of a batch is all of a kv head's.
struct Tile {
  const AttendBackwardArgs& args;
  const Blas& blas;
  ScoreTile scores;
  float *query, *gradient, *query_gradient;  // gathered, [kv_heads, count * group, head_dim]

  int64_t group() const { return args.heads / args.kv_heads; }
  int64_t dim() const { return args.head_dim; }
  int64_t rows() const { return scores.count * group(); }
  BatchOperand gathered(const float* values) const { return {values, dim(), rows() * dim()}; }
  BatchOperand of_keys(const float* values) const { return {values + scores.begin * args.key_stride, args.key_stride, dim()}; }
  BatchOperand of_scores(const float* values) const { return {values, scores.width, rows() * scores.width}; }
  HeadRows head_rows(int64_t stride) const {
    return {.count = scores.count,
            .kv_heads = static_cast<int>(args.kv_heads),
            .group = scores.group,
            .dim = static_cast<int>(dim()),
            .stride = stride};
  }

  // out[rows, width] = a b^T
  void score(const BatchOperand& a, const BatchOperand& b, float* out, bool is_exact) const {
    multiply(blas, {.a = a,
                    .b = b,
                    .transpose_b = true,
                    .out = out,
                    .out_stride = scores.width,
                    .out_batch = rows() * scores.width,
                    .m = rows(),
                    .n = scores.width,
                    .k = dim(),
                    .batch = args.kv_heads,
                    .is_exact = is_exact});
  }
  // out[width, dim] += scale * from^T b
  void add_by_key(const float* from, const float* b, float* out, float scale) const {
    multiply(blas, {.a = of_scores(from),
                    .b = gathered(b),
                    .transpose_a = true,
                    .out = out + scores.begin * args.key_stride,
                    .out_stride = args.key_stride,
                    .out_batch = dim(),
                    .m = scores.width,
                    .n = dim(),
                    .k = rows(),
                    .batch = args.kv_heads,
                    .scale = scale,
                    .accumulate = true});
  }

  void run() const {
    const HeadRows queries = head_rows(args.query_stride), outputs = head_rows(args.heads * dim());
    gather_heads(queries, args.query + scores.first * args.query_stride, query, blas.stream);
    gather_heads(outputs, args.gradient + scores.first * args.heads * dim(), gradient, blas.stream);
    score(gathered(query), of_keys(args.key), scores.weight, true);
    score(gathered(gradient), of_keys(args.value), scores.slope, false);
    differentiate_scores(scores, blas.stream);
    multiply(blas, {.a = of_scores(scores.slope),
                    .b = of_keys(args.key),
                    .out = query_gradient,
                    .out_stride = dim(),
                    .out_batch = rows() * dim(),
                    .m = rows(),
                    .n = dim(),
                    .k = scores.width,
                    .batch = args.kv_heads,
                    .scale = args.scale});
    scatter_heads(queries, query_gradient, args.query_gradient + scores.first * args.query_stride, blas.stream);
    add_by_key(scores.slope, query, args.key_gradient, args.scale);
    add_by_key(scores.weight, gradient, args.value_gradient, 1.0f);
  }
};

void zero_rows(float* rows, const AttendBackwardArgs& args, cudaStream_t stream) {
  expect(cudaMemset2DAsync(rows, static_cast<size_t>(args.key_stride) * sizeof(float), 0,
                           static_cast<size_t>(args.kv_heads * args.head_dim) * sizeof(float), static_cast<size_t>(args.tokens), stream),
         "zeroing");
}

float* floats(DeviceMemory& memory, int64_t count) {
  return static_cast<float*>(grow(memory, static_cast<uint64_t>(count) * sizeof(float)));
}

}  // namespace

void attend_backward(const AttendBackwardArgs& args, const Blas& blas, AttendBackwardWorkspace& workspace) {
  zero_rows(args.key_gradient, args, blas.stream), zero_rows(args.value_gradient, args, blas.stream);
  const int64_t of_query = args.heads * args.tokens;
  const int64_t queries = std::min(args.tokens, std::clamp(kTileFloats / of_query, kLeastQueries, kMostQueries));
  const int64_t gathered = queries * args.heads * args.head_dim;
  ScoreTile scores{.weight = floats(workspace.weight, queries * of_query),
                   .slope = floats(workspace.slope, queries * of_query),
                   .heads = static_cast<int>(args.heads),
                   .group = static_cast<int>(args.heads / args.kv_heads),
                   .window = static_cast<int>(args.window),
                   .scale = args.scale,
                   .softcap = args.softcap};
  float* const rows = floats(workspace.gathered, 3 * gathered);
  for (int64_t first = 0; first < args.tokens; first += queries) {
    scores.first = first, scores.begin = args.window > 0 ? std::max<int64_t>(0, first + 1 - args.window) : 0;
    scores.count = static_cast<int>(std::min(queries, args.tokens - first));
    scores.width = static_cast<int>(first + scores.count - scores.begin);
    Tile{args, blas, scores, rows, rows + gathered, rows + 2 * gathered}.run();
  }
}

}  // namespace tq::cuda
