#include "kernels/cpu/attention_digits.h"

#include <algorithm>

#include "kernels/cpu/attention_part.h"
#include "kernels/cpu/grow.h"

namespace tq::cpu {
namespace {

constexpr int64_t kPackedBytes = 64ll << 20;  // of keys and values at a time, but at least one head's
constexpr int64_t kGroupTiles = kDigitGroup / kDigitRows;
constexpr int64_t kTileSums = kDigitRows * kDigitRows;

constexpr int64_t pieces(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

// A head's keys, [groups of dimensions][tiles of positions], then its values, [groups of positions][tiles of dimensions]; scales alike.
struct HeadSize {
  int64_t dim, positions;
  int64_t dim_tiles = pieces(dim, kDigitRows), dim_groups = pieces(dim, kDigitGroup);
  int64_t groups = pieces(positions, kDigitGroup), tiles = groups * kGroupTiles;
  int64_t key_bytes = pieces(std::min(dim, kDigitGroup), kDigitStep) * kDigits * kDigitTileBytes;  // of a tile and group
  int64_t keys = dim_groups * tiles * key_bytes, bytes = keys + groups * dim_tiles * kDigitBytes;
  int64_t key_scales = dim_groups * tiles * kDigitRows, scales = key_scales + groups * dim_tiles * kDigitRows;
};

struct Head {
  const HeadSize& size;
  uint8_t* digits;
  float* scale;

  uint8_t* keys(int64_t dim_group, int64_t tile) const { return digits + (dim_group * size.tiles + tile) * size.key_bytes; }
  float* key_scale(int64_t dim_group, int64_t tile) const { return scale + (dim_group * size.tiles + tile) * kDigitRows; }
  uint8_t* values(int64_t group) const { return digits + size.keys + group * size.dim_tiles * kDigitBytes; }
  float* value_scale(int64_t group) const { return scale + size.key_scales + group * size.dim_tiles * kDigitRows; }
};

// Positions of one group of one head of the keys.
struct Group {
  const Part& args;
  const FloatKernels& kernels;
  const DigitKernels& digits;
  const Head& head;
  int64_t kv_head, number;

  // Keys as they are, values turned. rows: [16][dim_tiles * 16], zeros behind the dimensions; turned: [dim_tiles * 16][256].
  void pack(float* rows, float* turned) const {
    const HeadSize& size = head.size;
    const int64_t width = size.dim_tiles * kDigitRows, first = number * kDigitGroup, count = std::min(kDigitGroup, size.positions - first);
    for (int64_t at = 0; at < count; at += kDigitRows) {
      const int64_t here = std::min(kDigitRows, count - at), tile = (first + at) / kDigitRows;
      load(args.kv.key, first + at, here, rows);
      digits.split_left({.rows = rows, .stride = width, .count = here, .columns = size.dim}, {.values = head.keys(0, tile),
                                                                                              .group_bytes = size.tiles * size.key_bytes,
                                                                                              .scale = head.key_scale(0, tile),
                                                                                              .scale_stride = size.tiles * kDigitRows});
      load(args.kv.value, first + at, here, rows);
      for (int64_t d = 0; d < width; d += kDigitRows)
        digits.write({.sums = rows + d,
                      .sums_stride = width,
                      .left = here,
                      .right = kDigitRows,
                      .output = turned + d * kDigitGroup + at,
                      .stride = kDigitGroup});
    }
    for (int64_t d = 0; d < size.dim_tiles; ++d)
      digits.split_left({.rows = turned + d * kDigitRows * kDigitGroup,
                         .stride = kDigitGroup,
                         .count = std::min(kDigitRows, size.dim - d * kDigitRows),
                         .columns = count},
                        {.values = head.values(number) + d * kDigitBytes, .scale = head.value_scale(number) + d * kDigitRows});
  }

 private:
  // Positions [position, position + count) of the keys or values. rows: as of pack().
  void load(const std::byte* from, int64_t position, int64_t count, float* rows) const {
    const int64_t width = head.size.dim_tiles * kDigitRows;
    for (int64_t i = 0; i < count; ++i)
      kernels.load_kv(args.kv.type, from + args.row_at(kv_head, position + i), head.size.dim, rows + i * width);
  }
};

// A tile of queries of one head.
struct Queries {
  const Part& args;
  const FloatKernels& kernels;
  const DigitKernels& digits;
  const Head& head;
  int64_t query_head, begin, count;                                                                     // tokens
  int64_t end() const { return args.first_position + begin + count; }                                   // of the positions that they see
  int64_t start() const { return first_seen(args.window, args.first_position + begin) / kDigitGroup; }  // group

  // values: [groups of dimensions], scores: rows `width` apart, from the start's group on.
  void score(float* scores, int64_t width, uint8_t* values, float* scale, float* sums) const {
    const HeadSize& size = head.size;
    digits.split_right(
        {.rows = args.query + begin * args.stride + query_head * size.dim, .stride = args.stride, .count = count, .columns = size.dim},
        {.values = values, .group_bytes = kDigitBytes, .scale = scale, .scale_stride = kDigitRows});
    for (int64_t tile = start() * kGroupTiles; tile * kDigitRows < end(); tile += kGroupTiles) {
      const int64_t tiles = std::min(kGroupTiles, pieces(end(), kDigitRows) - tile);
      std::fill_n(sums, tiles * kTileSums, 0.0f);
      for (int64_t group = 0; group < size.dim_groups; ++group)
        digits.multiply({.left = head.keys(group, tile),
                         .left_bytes = size.key_bytes,
                         .left_scale = head.key_scale(group, tile),
                         .tiles = tiles,
                         .right = values + group * kDigitBytes,
                         .right_scale = scale + group * kDigitRows,
                         .columns = std::min(kDigitGroup, size.dim - group * kDigitGroup),
                         .sums = sums});
      for (int64_t i = 0; i < tiles; ++i)
        digits.write({.sums = sums + i * kTileSums,
                      .left = kDigitRows,
                      .right = count,
                      .output = scores + (tile + i - start() * kGroupTiles) * kDigitRows,
                      .stride = width});
    }
  }

  // Scores become factors, 0 where a query does not look.
  void weigh(float* scores, int64_t width) const {
    for (int64_t t = 0; t < count; ++t) {
      const int64_t before = start() * kDigitGroup, last = args.first_position + begin + t, first = first_seen(args.window, last);
      float* row = scores + t * width;
      std::fill(row, row + (first - before), 0.0f);
      kernels.softmax(row + (first - before), last - first + 1, args.scale, args.softcap);
      std::fill(row + (last + 1 - before), row + (end() - before), 0.0f);
    }
  }

  // values: [groups of positions]
  void sum(const float* scores, int64_t width, uint8_t* values, float* scale, float* sums) const {
    const HeadSize& size = head.size;
    const int64_t columns = end() - start() * kDigitGroup;
    digits.split_right({.rows = scores, .stride = width, .count = count, .columns = columns},
                       {.values = values, .group_bytes = kDigitBytes, .scale = scale, .scale_stride = kDigitRows});
    std::fill_n(sums, size.dim_tiles * kTileSums, 0.0f);
    for (int64_t at = 0, group = 0; at < columns; at += kDigitGroup, ++group)
      digits.multiply({.left = head.values(start() + group),
                       .left_scale = head.value_scale(start() + group),
                       .tiles = size.dim_tiles,
                       .right = values + group * kDigitBytes,
                       .right_scale = scale + group * kDigitRows,
                       .columns = std::min(kDigitGroup, columns - at),
                       .sums = sums});
    const int64_t stride = args.heads * size.dim;
    for (int64_t d = 0; d < size.dim; d += kDigitRows)
      digits.write({.sums = sums + d * kDigitRows,
                    .left = std::min(kDigitRows, size.dim - d),
                    .right = count,
                    .output = args.output + begin * stride + query_head * size.dim + d,
                    .stride = stride});
  }

  void run(AttendDigitsWorkspace::Thread& memory) const {
    const HeadSize& size = head.size;
    const int64_t width = size.groups * kDigitGroup, groups = std::max(size.groups, size.dim_groups);
    const int64_t tiles = std::max(kGroupTiles, size.dim_tiles);
    uint8_t* values = grow(memory.digits, groups * kDigitBytes);
    float* scores = grow(memory.floats, kDigitRows * width + groups * kDigitRows + tiles * kTileSums);
    float* scale = scores + kDigitRows * width;
    float* sums = scale + groups * kDigitRows;
    score(scores, width, values, scale, sums);
    weigh(scores, width);
    sum(scores, width, values, scale, sums);
  }
};

// All queries of a stretch, some heads of the keys at a time.
struct Heads {
  const Part& args;
  const FloatKernels& kernels;
  const DigitKernels& digits;
  ThreadPool& threads;
  const HeadSize& size;
  AttendDigitsWorkspace& workspace;

  // Heads [first, first + count) of the keys, all queries that read them.
  void attend(int64_t first, int64_t count) const {
    pack(first, count);
    const int64_t group = args.heads / args.kv.kv_heads, blocks = pieces(args.tokens, kDigitRows), heads = count * group;
    threads.run(heads * blocks, 1, [&](int64_t begin, int64_t end, int thread) {
      if (digits.begin) digits.begin();
      for (int64_t i = begin; i < end; ++i) {
        const int64_t token = (blocks - 1 - i / heads) * kDigitRows;  // the longest first
        const Head of_keys = head(i % heads / group);
        const Queries queries{args, kernels, digits, of_keys, first * group + i % heads, token, std::min(kDigitRows, args.tokens - token)};
        queries.run(workspace.of_thread[static_cast<size_t>(thread)]);
      }
      if (digits.end) digits.end();
    });
  }

 private:
  // The i-th of those that are packed.
  Head head(int64_t i) const { return {size, workspace.digits.data() + i * size.bytes, workspace.scale.data() + i * size.scales}; }
  void pack(int64_t first, int64_t count) const {
    const int64_t width = size.dim_tiles * kDigitRows;
    threads.run(count * size.groups, 1, [&](int64_t begin, int64_t end, int thread) {
      float* rows = grow(workspace.of_thread[static_cast<size_t>(thread)].floats, (kDigitRows + kDigitGroup) * width);
      std::fill_n(rows, kDigitRows * width, 0.0f);
      for (int64_t i = begin; i < end; ++i) {
        const Head of_keys = head(i / size.groups);
        const Group group{args, kernels, digits, of_keys, first + i / size.groups, i % size.groups};
        group.pack(rows, rows + kDigitRows * width);
      }
    });
  }
};

}  // namespace

void attend_digits(const Part& args, const FloatKernels& kernels, const DigitKernels& digits, ThreadPool& threads,
                   AttendDigitsWorkspace& workspace) {
  workspace.of_thread.resize(static_cast<size_t>(threads.size()));
  const HeadSize size{args.kv.head_dim, args.first_position + args.tokens};
  const int64_t kv_heads = args.kv.kv_heads, step = std::clamp<int64_t>(kPackedBytes / size.bytes, 1, kv_heads);
  grow(workspace.digits, step * size.bytes);
  grow(workspace.scale, step * size.scales);
  const Heads heads{args, kernels, digits, threads, size, workspace};
  for (int64_t first = 0; first < kv_heads; first += step) heads.attend(first, std::min(step, kv_heads - first));
}

}  // namespace tq::cpu
