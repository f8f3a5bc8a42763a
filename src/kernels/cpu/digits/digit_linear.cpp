#include "kernels/cpu/digits/digit_linear.h"

#include <algorithm>

#include "kernels/cpu/grow.h"

namespace tq::cpu {
namespace {

constexpr int64_t kBandTiles = 16;  // of 16 rows; their digits of 256 columns stay in the second-level cache
constexpr int64_t kSumTiles = 32;   // of 16 tokens, whose sums stay there too
constexpr int64_t kTileSums = kDigitRows * kDigitRows;

struct Band {
  const BandJob& job;
  const DigitInput& input;
  const DigitKernels& kernels;
  int64_t first, count;  // rows

  int64_t tiles() const { return (count + kDigitRows - 1) / kDigitRows; }

  // values: [groups][tiles], scale: [groups][tiles][16]
  void split(float* rows, uint8_t* values, float* scale) const {
    for (int64_t tile = 0; tile < tiles(); ++tile) {
      const int64_t row = tile * kDigitRows, here = std::min(kDigitRows, count - row);
      job.decode(first + row, here, rows);
      kernels.split_left({.rows = rows, .stride = input.columns(), .count = here, .columns = input.columns()},
                         {.values = values + tile * kDigitBytes,
                          .group_bytes = tiles() * kDigitBytes,
                          .scale = scale + tile * kDigitRows,
                          .scale_stride = tiles() * kDigitRows});
    }
  }

  // sums: [tiles of tokens][tiles of rows][16][16]
  void multiply(const uint8_t* values, const float* scale, int64_t begin, int64_t end, float* sums) const {
    for (int64_t group = 0; group < input.groups(); ++group)
      for (int64_t tile = begin; tile < end; ++tile)
        kernels.multiply({.left = values + group * tiles() * kDigitBytes,
                          .left_scale = scale + group * tiles() * kDigitRows,
                          .tiles = tiles(),
                          .right = input.values(tile, group),
                          .right_scale = input.scale(tile, group),
                          .columns = std::min(kDigitGroup, input.columns() - group * kDigitGroup),
                          .sums = sums + (tile - begin) * tiles() * kTileSums});
  }

  void write(const float* sums, int64_t begin, int64_t end) const {
    for (int64_t tile = begin; tile < end; ++tile)
      for (int64_t row = 0; row < count; row += kDigitRows)
        kernels.write({.sums = sums + ((tile - begin) * tiles() + row / kDigitRows) * kTileSums,
                       .bias = job.bias ? job.bias + first + row : nullptr,
                       .left = std::min(kDigitRows, count - row),
                       .right = std::min(kDigitRows, input.tokens() - tile * kDigitRows),
                       .output = job.output + tile * kDigitRows * job.rows + first + row,
                       .stride = job.rows});
  }

  void run(DigitWorkspace::Thread& memory) const {
    float* rows = grow(memory.rows, kDigitRows * input.columns());
    uint8_t* values = grow(memory.values, input.groups() * kBandTiles * kDigitBytes);
    float* scale = grow(memory.scale, input.groups() * kBandTiles * kDigitRows);
    float* sums = grow(memory.sums, kSumTiles * kBandTiles * kTileSums);
    split(rows, values, scale);
    for (int64_t begin = 0; begin < input.tiles(); begin += kSumTiles) {
      const int64_t end = std::min(input.tiles(), begin + kSumTiles);
      std::fill_n(sums, (end - begin) * tiles() * kTileSums, 0.0f);
      multiply(values, scale, begin, end, sums);
      write(sums, begin, end);
    }
  }
};

// Of a band: as many as stay in the cache, less where threads would go without.
int64_t band_rows(int64_t rows, int64_t threads) {
  const int64_t share = (rows + 4 * threads - 1) / (4 * threads);
  return std::clamp<int64_t>((share + kDigitRows - 1) / kDigitRows, 1, kBandTiles) * kDigitRows;
}

}  // namespace

void DigitInput::pack(const float* input, int64_t tokens, int64_t columns, const DigitKernels& kernels, ThreadPool& threads) {
  tokens_ = tokens, columns_ = columns;
  groups_ = (columns + kDigitGroup - 1) / kDigitGroup;
  tiles_ = (tokens + kDigitRows - 1) / kDigitRows;
  grow(values_, groups_ * tiles_ * kDigitBytes);
  grow(scale_, groups_ * tiles_ * kDigitRows);
  threads.run(tiles_, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile)
      kernels.split_right({.rows = input + tile * kDigitRows * columns,
                           .stride = columns,
                           .count = std::min(kDigitRows, tokens - tile * kDigitRows),
                           .columns = columns},
                          {.values = values_.data() + tile * kDigitBytes,
                           .group_bytes = tiles_ * kDigitBytes,
                           .scale = scale_.data() + tile * kDigitRows,
                           .scale_stride = tiles_ * kDigitRows});
  });
}

void digit_linear(const BandJob& job, const DigitInput& input, const DigitKernels& kernels, ThreadPool& threads,
                  DigitWorkspace& workspace) {
  workspace.of_thread.resize(static_cast<size_t>(threads.size()));
  const int64_t rows = band_rows(job.rows, threads.size()), bands = (job.rows + rows - 1) / rows;
  threads.run(bands, 1, [&](int64_t begin, int64_t end, int thread) {
    if (kernels.begin) kernels.begin();
    for (int64_t band = begin; band < end; ++band) {
      const Band work{job, input, kernels, band * rows, std::min(rows, job.rows - band * rows)};
      work.run(workspace.of_thread[static_cast<size_t>(thread)]);
    }
    if (kernels.end) kernels.end();
  });
}

}  // namespace tq::cpu
