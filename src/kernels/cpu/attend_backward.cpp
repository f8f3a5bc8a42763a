#include "kernels/cpu/attend_backward.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention_part.h"

namespace tq::cpu {
namespace {

constexpr int64_t kQueryBlock = 128;

// One head's block of queries [first, first + count) against the keys [begin, begin + width).
struct Tile {
  int64_t head = 0, first = 0, count = 0, begin = 0, width = 0;
  float* weight = nullptr;  // [count, width], softmax; zeros where a query does not see
  float* slope = nullptr;   // [count, width], gradient of the scores
};

// Turns tile.weight (scores without scale) into softmax weights and tile.slope (gradients of those) into gradients of those scores.
void differentiate_rows(const AttendBackwardArgs& args, const FloatKernels& kernels, const Tile& tile) {
  std::vector<float> cap(args.softcap > 0 ? static_cast<size_t>(tile.width) : 0);
  for (int64_t i = 0; i < tile.count; ++i) {
    const int64_t token = tile.first + i, from = first_seen(args.window, token) - tile.begin, seen = token + 1 - tile.begin - from;
    float* weight = tile.weight + i * tile.width;
    float* slope = tile.slope + i * tile.width;
    for (size_t j = 0; j < cap.size(); ++j) cap[j] = std::tanh(weight[j] * args.scale / args.softcap);
    kernels.softmax(weight + from, seen, args.scale, args.softcap);
    const float mean = kernels.dot(weight + from, slope + from, seen);
    for (int64_t j = from; j < from + seen; ++j) slope[j] = args.scale * weight[j] * (slope[j] - mean);
    if (!cap.empty())
      for (int64_t j = from; j < from + seen; ++j) slope[j] *= 1.0f - cap[static_cast<size_t>(j)] * cap[static_cast<size_t>(j)];
    for (float* row : {weight, slope}) {
      std::fill(row, row + from, 0.0f);
      std::fill(row + from + seen, row + tile.width, 0.0f);
    }
  }
}

// What a thread multiplies with.
struct Multiplier {
  FloatProducts& products;
  int thread;
  ProductPrecision precision;  // but for scores
  void operator()(const FloatProduct& product) const { products.run_on(thread, product, precision); }
};

void run_tile(const AttendBackwardArgs& args, const FloatKernels& kernels, const Tile& tile, const Multiplier& multiply,
              AttendBackwardWorkspace& workspace) {
  const int64_t dim = args.head_dim, kv_head = tile.head / (args.heads / args.kv_heads), width = args.heads * dim;
  const float* query = args.query + tile.first * args.query_stride + tile.head * dim;
  const float* key = args.key + tile.begin * args.key_stride + kv_head * dim;
  const float* value = args.value + tile.begin * args.key_stride + kv_head * dim;
  const float* gradient = args.gradient + tile.first * width + tile.head * dim;
  const auto across_keys = [&](const float* left, int64_t left_stride, const float* right, float* output) {
    return FloatProduct{.rows = tile.count,
                        .columns = tile.width,
                        .depth = dim,
                        .left = left,
                        .left_stride = left_stride,
                        .right = right,
                        .right_stride = args.key_stride,
                        .is_right_transposed = true,
                        .output = output,
                        .output_stride = tile.width};
  };
  multiply.products.run_on(multiply.thread, across_keys(query, args.query_stride, key, tile.weight), ProductPrecision::kFloat);
  multiply(across_keys(gradient, width, value, tile.slope));
  differentiate_rows(args, kernels, tile);
  multiply({.rows = tile.count,
            .columns = dim,
            .depth = tile.width,
            .left = tile.slope,
            .left_stride = tile.width,
            .right = key,
            .right_stride = args.key_stride,
            .output = args.query_gradient + tile.first * args.query_stride + tile.head * dim,
            .output_stride = args.query_stride});
  const auto add_to_keys = [&](const float* left, const float* right, int64_t right_stride, Buffer<float>& sum) {
    multiply({.rows = tile.width,
              .columns = dim,
              .depth = tile.count,
              .left = left,
              .left_stride = tile.width,
              .is_left_transposed = true,
              .right = right,
              .right_stride = right_stride,
              .output = sum.data() + (tile.head * args.tokens + tile.begin) * dim,
              .output_stride = dim,
              .accumulate = true});
  };
  add_to_keys(tile.slope, query, args.query_stride, workspace.key);
  add_to_keys(tile.weight, gradient, width, workspace.value);
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

void attend_backward(const AttendBackwardArgs& args, const FloatKernels& kernels, FloatProducts& products,
                     AttendBackwardWorkspace& workspace) {
  ThreadPool& threads = products.threads();
  const auto precision = args.precision == Precision::kTraining ? ProductPrecision::kTraining : ProductPrecision::kFloat;
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
        tile.begin = first_seen(args.window, first), tile.width = first + tile.count - tile.begin;
        tile.weight = memory.data(), tile.slope = memory.data() + tile_size;
        run_tile(args, kernels, tile, {products, thread, precision}, workspace);
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
