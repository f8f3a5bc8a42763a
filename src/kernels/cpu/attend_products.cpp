#include "kernels/cpu/attend_products.h"

namespace tq::cpu {
namespace {

constexpr int64_t kQueryBlock = 128;  // queries whose scores exist at a time

// Keys and values of one head, [positions, D] each.
struct UnpackedHead {
  const float *keys, *values;
};

// Queries [begin, begin + count) of one head. scores: [count, positions].
void attend_block(const Part& args, const FloatKernels& kernels, FloatProducts& products, int thread, const UnpackedHead& head_of_keys,
                  int64_t head, int64_t begin, int64_t count, float* scores) {
  const int64_t dim = args.kv.head_dim, end = args.first_position + begin + count, start = first_seen(args, args.first_position + begin);
  const int64_t width = end - start;
  products.run_on(thread,
                  {.rows = count,
                   .columns = width,
                   .depth = dim,
                   .left = args.query + begin * args.stride + head * dim,
                   .left_stride = args.stride,
                   .right = head_of_keys.keys + start * dim,
                   .right_stride = dim,
                   .is_right_transposed = true,
                   .output = scores,
                   .output_stride = width},
                  ProductPrecision::kFloat);
  for (int64_t t = 0; t < count; ++t) {
    const int64_t last = args.first_position + begin + t, first = first_seen(args, last);
    float* row = scores + t * width - start;  // by position
    std::fill(row + start, row + first, 0.0f);
    kernels.softmax(row + first, last - first + 1, args.scale, args.softcap);
    std::fill(row + last + 1, row + end, 0.0f);
  }
  products.run_on(thread,
                  {.rows = count,
                   .columns = dim,
                   .depth = width,
                   .left = scores,
                   .left_stride = width,
                   .right = head_of_keys.values + start * dim,
                   .right_stride = dim,
                   .output = args.output + begin * args.heads * dim + head * dim,
                   .output_stride = args.heads * dim},
                  ProductPrecision::kFloat);
}

// Heads [first, first + count) of the keys, and all queries that read them.
void attend_heads(const Part& args, const FloatKernels& kernels, FloatProducts& products, int64_t first, int64_t count,
                  AttendWorkspace& workspace) {
  const int64_t end = args.first_position + args.tokens, group = args.heads / args.kv.kv_heads, dim = args.kv.head_dim;
  float* unpacked = workspace.packed.data();
  products.threads().run(count * end, 64, [&](int64_t from, int64_t to, int) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t head = i / end, position = i % end, row = args.row_at(first + head, position);
      float* keys = unpacked + (2 * head * end + position) * dim;
      kernels.load_kv(args.kv.type, args.kv.key + row, dim, keys);
      kernels.load_kv(args.kv.type, args.kv.value + row, dim, keys + end * dim);
    }
  });
  const int64_t blocks = (args.tokens + kQueryBlock - 1) / kQueryBlock, heads = count * group;
  products.threads().run(heads * blocks, 1, [&](int64_t from, int64_t to, int thread) {
    float* scores = grow(workspace.of_thread[static_cast<size_t>(thread)], kQueryBlock * end);
    for (int64_t i = from; i < to; ++i) {
      const int64_t block = blocks - 1 - i / heads, head = i % heads;  // the longest first
      const float* keys = unpacked + 2 * (head / group) * end * dim;
      const int64_t token = block * kQueryBlock;
      attend_block(args, kernels, products, thread, {keys, keys + end * dim}, first * group + head, token,
                   std::min(kQueryBlock, args.tokens - token), scores);
    }
  });
}

}  // namespace

void attend_by_products(const Part& args, const FloatKernels& kernels, FloatProducts& products, AttendWorkspace& workspace) {
  const int64_t kv_heads = args.kv.kv_heads, size = 2 * (args.first_position + args.tokens) * args.kv.head_dim;
  const int64_t step = heads_at_once(size, kv_heads);
  grow(workspace.packed, step * size);
  for (int64_t first = 0; first < kv_heads; first += step)
    attend_heads(args, kernels, products, first, std::min(step, kv_heads - first), workspace);
}

}  // namespace tq::cpu
