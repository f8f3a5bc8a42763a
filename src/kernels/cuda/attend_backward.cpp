#include "kernels/cuda/attend_backward.h"

#include <algorithm>

#include "kernels/cuda/expect.h"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

constexpr int64_t kTileFloats = int64_t{32} << 20;
constexpr int64_t kLeastQueries = 16, kMostQueries = 512;

// The heads that share keys are taken one member of each group at a time: the kv_heads of a batch then lie evenly spaced.
struct Tile {
  const AttendBackwardArgs& args;
  const Blas& blas;
  ScoreTile scores;

  int64_t group() const { return args.heads / args.kv_heads; }
  int64_t dim() const { return args.head_dim; }
  BatchOperand query(int64_t member) const {
    return {args.query + scores.first * args.query_stride + member * dim(), args.query_stride, group() * dim()};
  }
  BatchOperand gradient(int64_t member) const {
    return {args.gradient + (scores.first * args.heads + member) * dim(), args.heads * dim(), group() * dim()};
  }
  BatchOperand key() const { return {args.key + scores.begin * args.key_stride, args.key_stride, dim()}; }
  BatchOperand value() const { return {args.value + scores.begin * args.key_stride, args.key_stride, dim()}; }
  float* of(float* all, int64_t member) const { return all + member * scores.count * scores.width; }
  BatchOperand scores_of(float* all, int64_t member) const { return {of(all, member), scores.width, batch()}; }
  int64_t batch() const { return group() * scores.count * scores.width; }

  // [count, width] of every kv head = a b^T
  void score(const BatchOperand& a, const BatchOperand& b, float* out, int64_t member, bool is_exact) const {
    multiply(blas, {.a = a,
                    .b = b,
                    .transpose_b = true,
                    .out = of(out, member),
                    .out_stride = scores.width,
                    .out_batch = batch(),
                    .m = scores.count,
                    .n = scores.width,
                    .k = dim(),
                    .batch = args.kv_heads,
                    .is_exact = is_exact});
  }
  void query_gradient(int64_t member) const {
    multiply(blas, {.a = scores_of(scores.slope, member),
                    .b = key(),
                    .out = args.query_gradient + scores.first * args.query_stride + member * dim(),
                    .out_stride = args.query_stride,
                    .out_batch = group() * dim(),
                    .m = scores.count,
                    .n = dim(),
                    .k = scores.width,
                    .batch = args.kv_heads,
                    .scale = args.scale});
  }
  // out[width, dim] of every kv head += scale * scores^T b
  void add_by_key(float* from, int64_t member, const BatchOperand& b, float* out, float scale) const {
    multiply(blas, {.a = scores_of(from, member),
                    .b = b,
                    .transpose_a = true,
                    .out = out + scores.begin * args.key_stride,
                    .out_stride = args.key_stride,
                    .out_batch = dim(),
                    .m = scores.width,
                    .n = dim(),
                    .k = scores.count,
                    .batch = args.kv_heads,
                    .scale = scale,
                    .accumulate = true});
  }

  void run() const {
    for (int64_t member = 0; member < group(); ++member) {
      score(query(member), key(), scores.weight, member, true);
      score(gradient(member), value(), scores.slope, member, false);
    }
    differentiate_scores(scores, blas.stream);
    for (int64_t member = 0; member < group(); ++member) {
      query_gradient(member);
      add_by_key(scores.slope, member, query(member), args.key_gradient, args.scale);
      add_by_key(scores.weight, member, gradient(member), args.value_gradient, 1.0f);
    }
  }
};

void zero_rows(float* rows, const AttendBackwardArgs& args, cudaStream_t stream) {
  expect(cudaMemset2DAsync(rows, static_cast<size_t>(args.key_stride) * sizeof(float), 0,
                           static_cast<size_t>(args.kv_heads * args.head_dim) * sizeof(float), static_cast<size_t>(args.tokens), stream),
         "zeroing");
}

}  // namespace

void attend_backward(const AttendBackwardArgs& args, const Blas& blas, AttendBackwardWorkspace& workspace) {
  zero_rows(args.key_gradient, args, blas.stream), zero_rows(args.value_gradient, args, blas.stream);
  const int64_t of_query = args.heads * args.tokens;
  const int64_t queries = std::min(args.tokens, std::clamp(kTileFloats / of_query, kLeastQueries, kMostQueries));
  const auto bytes = static_cast<uint64_t>(queries * of_query) * sizeof(float);
  ScoreTile scores{.weight = static_cast<float*>(grow(workspace.weight, bytes)),
                   .slope = static_cast<float*>(grow(workspace.slope, bytes)),
                   .heads = static_cast<int>(args.heads),
                   .window = static_cast<int>(args.window),
                   .scale = args.scale,
                   .softcap = args.softcap};
  for (int64_t first = 0; first < args.tokens; first += queries) {
    scores.first = first, scores.begin = args.window > 0 ? std::max<int64_t>(0, first + 1 - args.window) : 0;
    scores.count = static_cast<int>(std::min(queries, args.tokens - first));
    scores.width = static_cast<int>(first + scores.count - scores.begin);
    Tile{args, blas, scores}.run();
  }
}

}  // namespace tq::cuda
