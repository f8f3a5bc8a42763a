#include "kernels/cpu/attention.h"

#include <algorithm>

#include "kernels/cpu/attention_digits.h"
#include "kernels/cpu/attention_part.h"
#include "kernels/cpu/grow.h"

namespace tq::cpu {
namespace {

constexpr int64_t kQueryBlock = 48;          // queries whose scores exist at a time
constexpr int64_t kFewTokens = 4;            // up to here keys are multiplied row by row
constexpr int64_t kPackedFloats = 16 << 20;  // of keys and values packed at a time, but at least one head's

// One query over all it sees: a dot product a key, then the weighted sum of the values.
void attend_one(const Part& args, const FloatKernels& kernels, int64_t token, int64_t head, float* scratch) {
  const KvView& kv = args.kv;
  const int64_t kv_head = head / (args.heads / kv.kv_heads), last = args.first_position + token, first = first_seen(args.window, last);
  float* row = scratch;
  float* scores = scratch + kv.head_dim;
  const float* query = args.query + token * args.stride + head * kv.head_dim;
  for (int64_t p = first; p <= last; ++p) {
    kernels.load_kv(kv.type, kv.key + args.row_at(kv_head, p), kv.head_dim, row);
    scores[p - first] = kernels.dot(query, row, kv.head_dim);
  }
  kernels.softmax(scores, last - first + 1, args.scale, args.softcap);
  float* output = args.output + (token * args.heads + head) * kv.head_dim;
  std::fill_n(output, kv.head_dim, 0.0f);
  for (int64_t p = first; p <= last; ++p) {
    kernels.load_kv(kv.type, kv.value + args.row_at(kv_head, p), kv.head_dim, row);
    kernels.add_scaled(output, row, scores[p - first], kv.head_dim);
  }
}

// Keys and values of one head, packed for the GEMM: keys as bands of positions, values as bands of dimensions.
struct PackedHead {
  float* keys;    // [bands of positions][D, kBandRows]
  float* values;  // [bands of dimensions][positions, kBandRows]
  int64_t positions;
};

struct PackedSize {
  int64_t key_bands, keys, values;
  PackedSize(int64_t dim, int64_t end)
      : key_bands((end + kBandRows - 1) / kBandRows),
        keys(key_bands * dim * kBandRows),
        values((dim + kBandRows - 1) / kBandRows * kBandRows * end) {}
  int64_t total() const { return keys + values; }
};

// Positions [first, first + count) of one head of the keys, a band of them.
struct PositionBand {
  int64_t kv_head, first, count;
};

// rows: [kBandRows, D], for its own use.
void pack_positions(const Part& args, const FloatKernels& kernels, const PositionBand& of, const PackedHead& packed, float* rows) {
  const KvView& kv = args.kv;
  const int64_t dim = kv.head_dim;
  for (int64_t i = 0; i < of.count; ++i) kernels.load_kv(kv.type, kv.key + args.row_at(of.kv_head, of.first + i), dim, rows + i * dim);
  kernels.pack_band(rows, of.count, dim, dim, packed.keys + of.first * dim);
  for (int64_t p = of.first; p < of.first + of.count; ++p) {
    kernels.load_kv(kv.type, kv.value + args.row_at(of.kv_head, p), dim, rows);
    for (int64_t band = 0; band * kBandRows < dim; ++band) {
      float* out = packed.values + (band * packed.positions + p) * kBandRows;
      const int64_t here = std::min(kBandRows, dim - band * kBandRows);
      std::copy_n(rows + band * kBandRows, here, out);
      std::fill(out + here, out + kBandRows, 0.0f);
    }
  }
}

// Queries [begin, begin + count) of one head.
struct QueryBlock {
  int64_t head, begin, count;
};

// scores: [kQueryBlock, positions], for its own use.
void attend_block(const Part& args, const FloatKernels& kernels, const PackedHead& packed, const QueryBlock& of, float* scores) {
  const int64_t dim = args.kv.head_dim, begin = of.begin, count = of.count, end = args.first_position + begin + count;
  const int64_t first_band = first_seen(args.window, args.first_position + begin) / kBandRows, width = packed.positions;
  const float* queries = args.query + begin * args.stride + of.head * dim;
  for (int64_t band = first_band; band * kBandRows < end; ++band)
    kernels.gemm_band({.input = queries,
                       .input_stride = args.stride,
                       .packed = packed.keys + band * dim * kBandRows,
                       .output = scores + band * kBandRows,
                       .output_stride = width,
                       .tokens = count,
                       .columns = dim,
                       .rows = std::min(kBandRows, width - band * kBandRows)});
  const int64_t start = first_band * kBandRows;
  for (int64_t t = 0; t < count; ++t) {
    const int64_t last = args.first_position + begin + t, first = first_seen(args.window, last);
    float* row = scores + t * width;
    std::fill(row + start, row + first, 0.0f);
    kernels.softmax(row + first, last - first + 1, args.scale, args.softcap);
    std::fill(row + last + 1, row + end, 0.0f);
  }
  for (int64_t band = 0; band * kBandRows < dim; ++band)
    kernels.gemm_band({.input = scores + start,
                       .input_stride = width,
                       .packed = packed.values + (band * packed.positions + start) * kBandRows,
                       .output = args.output + begin * args.heads * dim + of.head * dim + band * kBandRows,
                       .output_stride = args.heads * dim,
                       .tokens = count,
                       .columns = end - start,
                       .rows = std::min(kBandRows, dim - band * kBandRows)});
}

// Queries of several stretches, one by one.
void attend_few(std::span<const Part> parts, const FloatKernels& kernels, ThreadPool& threads, AttendWorkspace& workspace) {
  int64_t rows = 0, end = 0;
  for (const Part& part : parts) rows += part.tokens, end = std::max(end, part.first_position + part.tokens);
  if (rows == 0) return;
  const int64_t heads = parts[0].heads, scratch_floats = parts[0].kv.head_dim + end;
  threads.run(rows * heads, 1, [&](int64_t begin, int64_t stop, int thread) {
    float* scratch = grow(workspace.of_thread[static_cast<size_t>(thread)], scratch_floats);
    int64_t first = 0;
    for (const Part& part : parts) {
      for (int64_t i = std::max(begin, first); i < std::min(stop, first + part.tokens * heads); ++i)
        attend_one(part, kernels, (i - first) / heads, (i - first) % heads, scratch);
      first += part.tokens * heads;
    }
  });
}

// Heads [first, first + count) of the keys: packs them, then all blocks of queries that read them.
void attend_heads(const Part& args, const FloatKernels& kernels, ThreadPool& threads, int64_t first, int64_t count,
                  AttendWorkspace& workspace) {
  const int64_t end = args.first_position + args.tokens, group = args.heads / args.kv.kv_heads, dim = args.kv.head_dim;
  const PackedSize size(dim, end);
  const auto packed = [&](int64_t i) {
    float* keys = workspace.packed.data() + i * size.total();
    return PackedHead{keys, keys + size.keys, end};
  };
  threads.run(count * size.key_bands, 1, [&](int64_t begin, int64_t stop, int thread) {
    float* rows = grow(workspace.of_thread[static_cast<size_t>(thread)], kBandRows * dim);
    for (int64_t i = begin; i < stop; ++i) {
      const int64_t head = i / size.key_bands, position = i % size.key_bands * kBandRows;
      pack_positions(args, kernels, {first + head, position, std::min(kBandRows, end - position)}, packed(head), rows);
    }
  });
  const int64_t blocks = (args.tokens + kQueryBlock - 1) / kQueryBlock, heads = count * group;
  threads.run(heads * blocks, 1, [&](int64_t begin, int64_t stop, int thread) {
    float* scores = grow(workspace.of_thread[static_cast<size_t>(thread)], kQueryBlock * end);
    for (int64_t i = begin; i < stop; ++i) {
      const int64_t block = blocks - 1 - i / heads, head = i % heads;  // the longest first
      const int64_t token = block * kQueryBlock;
      attend_block(args, kernels, packed(head / group), {first * group + head, token, std::min(kQueryBlock, args.tokens - token)}, scores);
    }
  });
}

// Queries of one stretch as products of matrices.
void attend_many(const Part& args, const FloatKernels& kernels, ThreadPool& threads, AttendWorkspace& workspace) {
  const int64_t kv_heads = args.kv.kv_heads, size = PackedSize(args.kv.head_dim, args.first_position + args.tokens).total();
  const int64_t step = std::clamp<int64_t>(kPackedFloats / size, 1, kv_heads);
  grow(workspace.packed, step * size);
  for (int64_t first = 0; first < kv_heads; first += step)
    attend_heads(args, kernels, threads, first, std::min(step, kv_heads - first), workspace);
}

}  // namespace

void attend(const AttendArgs& args, const FloatKernels& kernels, const DigitKernels* digits, ThreadPool& threads,
            AttendWorkspace& workspace) {
  workspace.of_thread.resize(static_cast<size_t>(threads.size()));
  std::vector<Part> few;
  int64_t row = 0;
  for (const Stretch& stretch : args.stretches) {
    const Part part(args, stretch, row);
    row += stretch.tokens;
    if (stretch.tokens <= kFewTokens || args.precision == Precision::kInvariant) few.push_back(part);
    else if (digits) attend_digits(part, kernels, *digits, threads, workspace.digits);
    else attend_many(part, kernels, threads, workspace);
  }
  attend_few(few, kernels, threads, workspace);
}

}  // namespace tq::cpu
