#include "kernels/cpu/attend_backward.h"

#include <algorithm>
#include <cmath>

#include "base/blas.h"

namespace tq::cpu {
namespace {

constexpr int64_t kQueryBlock = 128;

// One head's block of queries [first, first + count) against the keys [begin, begin + width).
struct Tile {
  int64_t head = 0, first = 0, count = 0, begin = 0, width = 0;
  float* weight = nullptr;  // [count, width], softmax; zeros where a query does not see
  float* slope = nullptr;   // [count, width], gradient of the scores
};

struct Strided {
  const float* data;
  int64_t stride;
};

// out[m, n] (+)= scale * a[m, k] b[k, n]; transposed operands are given as they are stored.
struct Product {
  Strided a, b;
  bool transpose_a = false, transpose_b = false;
  float* out = nullptr;
  int64_t out_stride = 0, m = 0, n = 0, k = 0;
  float scale = 1.0f;
  bool accumulate = false;
};

void multiply(const Product& p) {
  cblas_sgemm(CblasRowMajor, p.transpose_a ? CblasTrans : CblasNoTrans, p.transpose_b ? CblasTrans : CblasNoTrans, static_cast<int>(p.m),
              static_cast<int>(p.n), static_cast<int>(p.k), p.scale, p.a.data, static_cast<int>(p.a.stride), p.b.data,
              static_cast<int>(p.b.stride), p.accumulate ? 1.0f : 0.0f, p.out, static_cast<int>(p.out_stride));
}

int64_t first_seen(const AttendBackwardArgs& args, int64_t token) {
  return args.window > 0 ? std::max<int64_t>(0, token + 1 - args.window) : 0;
}

// Turns tile.weight (scores without scale) into softmax weights and tile.slope (gradients of those) into gradients of the scores.
void differentiate_rows(const AttendBackwardArgs& args, const FloatKernels& kernels, const Tile& tile) {
  std::vector<float> cap(args.softcap > 0 ? static_cast<size_t>(tile.width) : 0);
  for (int64_t i = 0; i < tile.count; ++i) {
    const int64_t token = tile.first + i, from = first_seen(args, token) - tile.begin, seen = token + 1 - tile.begin - from;
    float* weight = tile.weight + i * tile.width;
    float* slope = tile.slope + i * tile.width;
    for (size_t j = 0; j < cap.size(); ++j) cap[j] = std::tanh(weight[j] * args.scale / args.softcap);
    kernels.softmax(weight + from, seen, args.scale, args.softcap);
    const float mean = kernels.dot(weight + from, slope + from, seen);
    for (int64_t j = from; j < from + seen; ++j) slope[j] = weight[j] * (slope[j] - mean);
    if (!cap.empty())
      for (int64_t j = from; j < from + seen; ++j) slope[j] *= 1.0f - cap[static_cast<size_t>(j)] * cap[static_cast<size_t>(j)];
    for (float* row : {weight, slope}) {
      std::fill(row, row + from, 0.0f);
      std::fill(row + from + seen, row + tile.width, 0.0f);
    }
  }
}

void run_tile(const AttendBackwardArgs& args, const FloatKernels& kernels, const Tile& tile, AttendBackwardWorkspace& workspace) {
  const int64_t dim = args.head_dim, kv_head = tile.head / (args.heads / args.kv_heads), width = args.heads * dim;
  const Strided query{args.query + tile.first * args.query_stride + tile.head * dim, args.query_stride};
  const Strided key{args.key + tile.begin * args.key_stride + kv_head * dim, args.key_stride};
  const Strided value{args.value + tile.begin * args.key_stride + kv_head * dim, args.key_stride};
  const Strided gradient{args.gradient + tile.first * width + tile.head * dim, width};
  const Strided weight{tile.weight, tile.width}, slope{tile.slope, tile.width};
  const int64_t at = (tile.head * args.tokens + tile.begin) * dim;
  multiply({.a = query,
            .b = key,
            .transpose_b = true,
            .out = tile.weight,
            .out_stride = tile.width,
            .m = tile.count,
            .n = tile.width,
            .k = dim});
  multiply({.a = gradient,
            .b = value,
            .transpose_b = true,
            .out = tile.slope,
            .out_stride = tile.width,
            .m = tile.count,
            .n = tile.width,
            .k = dim});
  differentiate_rows(args, kernels, tile);
  multiply({.a = slope,
            .b = key,
            .out = args.query_gradient + tile.first * args.query_stride + tile.head * dim,
            .out_stride = args.query_stride,
            .m = tile.count,
            .n = dim,
            .k = tile.width,
            .scale = args.scale});
  multiply({.a = slope,
            .b = query,
            .transpose_a = true,
            .out = workspace.key.data() + at,
            .out_stride = dim,
            .m = tile.width,
            .n = dim,
            .k = tile.count,
            .scale = args.scale,
            .accumulate = true});
  multiply({.a = weight,
            .b = gradient,
            .transpose_a = true,
            .out = workspace.value.data() + at,
            .out_stride = dim,
            .m = tile.width,
            .n = dim,
            .k = tile.count,
            .accumulate = true});
}

// out[T, kv_heads, dim] = the sum over the heads that share a key.
void sum_groups(const AttendBackwardArgs& args, const Buffer<float>& of_heads, int64_t token, float* out) {
  const int64_t dim = args.head_dim, group = args.heads / args.kv_heads;
  for (int64_t h = 0; h < args.heads; ++h) {
    const float* from = of_heads.data() + (h * args.tokens + token) * dim;
    float* to = out + token * args.key_stride + h / group * dim;
    for (int64_t d = 0; d < dim; ++d) to[d] = h % group == 0 ? from[d] : to[d] + from[d];
  }
}

void zero(Buffer<float>& memory, size_t count) {
  if (memory.size() < count) memory = Buffer<float>::uninitialized(count);
  std::fill_n(memory.data(), count, 0.0f);
}

}  // namespace

void attend_backward(const AttendBackwardArgs& args, const FloatKernels& kernels, ThreadPool& threads, AttendBackwardWorkspace& workspace) {
  use_one_blas_thread();
  const auto count = static_cast<size_t>(args.heads * args.tokens * args.head_dim);
  zero(workspace.key, count), zero(workspace.value, count);
  workspace.of_thread.resize(static_cast<size_t>(threads.size()));
  threads.run(args.heads, 1, [&](int64_t begin, int64_t end, int thread) {
    Buffer<float>& memory = workspace.of_thread[static_cast<size_t>(thread)];
    const int64_t tile_size = kQueryBlock * args.tokens;
    if (memory.size() < static_cast<size_t>(2 * tile_size)) memory = Buffer<float>::uninitialized(static_cast<size_t>(2 * tile_size));
    for (int64_t head = begin; head < end; ++head)
      for (int64_t first = 0; first < args.tokens; first += kQueryBlock) {
        Tile tile{.head = head, .first = first, .count = std::min(kQueryBlock, args.tokens - first)};
        tile.begin = first_seen(args, first), tile.width = first + tile.count - tile.begin;
        tile.weight = memory.data(), tile.slope = memory.data() + tile_size;
        run_tile(args, kernels, tile, workspace);
      }
  });
  threads.run(args.tokens, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      sum_groups(args, workspace.key, t, args.key_gradient);
      sum_groups(args, workspace.value, t, args.value_gradient);
    }
  });
}

}  // namespace tq::cpu
