#include "kernels/cpu/tile/tile_linear.h"

#include <algorithm>
#include <cstring>

#include "base/float16.h"
#include "kernels/cpu/grow.h"

namespace tq::cpu {
namespace {

constexpr int64_t kBlockColumns = 512;  // that are decoded and then multiplied, so that panels and input stay in the first-level cache
constexpr int64_t kSumTokens = 1056;    // whose sums stay in the second; a multiple of every kernel's tokens

// Some tiles of one job, and what all bands share.
struct Band {
  const PlaneJob& job;
  const TileInput& input;
  const TileKernels& kernels;
  TileElement element;
  int64_t tokens, flush, first, tiles;  // first row

  const grid::Matrix& matrix() const { return job.matrix->matrix(); }
  int64_t row_of(int64_t tile) const { return first + tile * kTileRows; }
  const TapTable& taps(int64_t tile) const { return job.matrix->tap_table(matrix().layout.rate[static_cast<size_t>(row_of(tile))]); }
  int64_t rows(int64_t tile) const { return std::min(kTileRows, matrix().layout.rows - row_of(tile)); }
  int64_t panel_bytes() const { return kBlockColumns * kPanelRows * bytes_of(element); }
  int64_t tile_bytes() const { return kTileRows / kPanelRows * panel_bytes(); }

  void decode(int64_t tile, int64_t k, uint8_t* panels) const {
    const grid::Layout& layout = matrix().layout;
    const int64_t lines = layout.padded_columns / grid::kLineColumns;
    kernels.decode({.bits = matrix().bits,
                    .lines = lines,
                    .plane_rows = layout.plane_rows,
                    .newest = layout.newest[static_cast<size_t>(row_of(tile))],
                    .rows = rows(tile),
                    .taps = &taps(tile),
                    .first_line = k / grid::kLineColumns,
                    .end_line = std::min(lines, (k + kBlockColumns) / grid::kLineColumns)},
                   element, panels, panel_bytes());
  }

  // sums[tile][t][row] of the token blocks [begin, end), columns from k on.
  void multiply(const uint8_t* panels, int64_t k, int64_t begin, int64_t end, float* sums) const {
    for (int64_t panel = 0; panel * kPanelRows < kTileRows; panel += kernels.panels)
      kernels.multiply(element, {.panel = panels + panel * panel_bytes(),
                                 .panel_bytes = panel_bytes(),
                                 .tiles = tiles,
                                 .tile_bytes = tile_bytes(),
                                 .input = input.values(begin) + k * (input.block_bytes() / input.columns()),
                                 .scale = input.scale(begin) + k / kGroupColumns * kernels.tokens,
                                 .offset = input.offset(begin) + k / kGroupColumns * kernels.tokens,
                                 .blocks = end - begin,
                                 .input_bytes = input.block_bytes(),
                                 .scale_stride = input.scale_stride(),
                                 .columns = std::min(kBlockColumns, input.columns() - k),
                                 .flush = flush,
                                 .sums = sums + panel * kPanelRows,
                                 .tile_sums = kSumTokens * kTileRows});
  }

  void write(int64_t tile, const float* sums, int64_t begin, int64_t end) const {
    const int64_t row = row_of(tile);
    const float unit = taps(tile).unit * (is_bytes(element) ? 32.0f : 1.0f);
    float scale[kTileRows] = {}, bias[kTileRows] = {};
    for (int64_t r = 0; r < rows(tile); ++r) {
      scale[r] = f16_to_float(matrix().row_scale[row + r]) * unit;
      if (job.bias) bias[r] = job.bias[row + r];
    }
    kernels.write({.sums = sums,
                   .tokens = end - begin,
                   .rows = rows(tile),
                   .scale = scale,
                   .bias = bias,
                   .output = job.output + begin * matrix().layout.rows + row,
                   .stride = matrix().layout.rows});
  }

  void run(TileWorkspace::Thread& memory) const {
    uint8_t* panels = grow(memory.panels, kernels.tiles * tile_bytes());
    float* sums = grow(memory.sums, kernels.tiles * kSumTokens * kTileRows);
    const int64_t step = kSumTokens / kernels.tokens;
    for (int64_t block = 0; block < input.blocks(); block += step) {
      const int64_t end = std::min(input.blocks(), block + step);
      for (int64_t tile = 0; tile < tiles; ++tile)
        std::fill_n(sums + tile * kSumTokens * kTileRows, (end - block) * kernels.tokens * kTileRows, 0.0f);
      for (int64_t k = 0; k < input.columns(); k += kBlockColumns) {
        for (int64_t tile = 0; tile < tiles; ++tile) decode(tile, k, panels + tile * tile_bytes());
        multiply(panels, k, block, end, sums);
      }
      for (int64_t tile = 0; tile < tiles; ++tile)
        write(tile, sums + tile * kSumTokens * kTileRows, block * kernels.tokens, std::min(tokens, end * kernels.tokens));
    }
  }
};

// Of a band: what the kernel takes, less where threads would go without.
int64_t band_tiles(std::span<const PlaneJob> jobs, const TileKernels& kernels, int64_t threads) {
  int64_t tiles = 0;
  for (const PlaneJob& job : jobs) tiles += (job.matrix->rows() + kTileRows - 1) / kTileRows;
  return std::clamp<int64_t>(tiles / (4 * threads), 1, kernels.tiles);
}

}  // namespace

TileElement tile_element(bool high_precision, const TileKernels& kernels) { return kernels.element[high_precision ? 1 : 0]; }

void TileInput::pack_scales(const PlaneInput& input, int64_t token) {
  const int64_t at = token / block_tokens_ * scale_stride() + token % block_tokens_;
  float* scale = scale_.data() + at;
  int32_t* offset = offset_.data() + at;
  if (token >= input.tokens()) {  // behind the last
    for (int64_t g = 0; g < groups_; ++g) scale[g * block_tokens_] = 0, offset[g * block_tokens_] = 0;
    return;
  }
  const StreamView high = input.stream(token, 0), low = input.stream(token, input.streams_per_token() - 1);
  for (int64_t g = 0; g < groups_; ++g) {
    scale[g * block_tokens_] = low.scale[g];
    int32_t sum = 0;
    for (int64_t k = g * kGroupColumns; k < std::min(input.columns(), (g + 1) * kGroupColumns); ++k) sum += high.values[k];
    offset[g * block_tokens_] = -128 * sum;
  }
}

void TileInput::pack(const PlaneInput& input, TileElement element, const TileKernels& kernels, ThreadPool& threads) {
  block_tokens_ = kernels.tokens;
  bytes_ = bytes_of(element);
  blocks_ = (input.tokens() + block_tokens_ - 1) / block_tokens_;
  columns_ = (input.columns() + kernels.columns - 1) / kernels.columns * kernels.columns;
  groups_ = input.groups();
  grow(values_, blocks_ * block_bytes());
  grow(scale_, blocks_ * scale_stride());
  grow(offset_, blocks_ * scale_stride());
  threads.run(blocks_, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block) {
      kernels.pack(element, {&input, block * block_tokens_, columns_, values_.data() + block * block_bytes()});
      for (int64_t lane = 0; lane < block_tokens_; ++lane) pack_scales(input, block * block_tokens_ + lane);
    }
  });
}

void tile_linear(std::span<const PlaneJob> jobs, const PlaneInput& input, Isa isa, ThreadPool& threads, TileWorkspace& workspace) {
  const TileKernels& kernels = tile_kernels(isa);
  const bool high_precision = input.streams_per_token() == 2;
  const TileElement element = tile_element(high_precision, kernels);
  workspace.input.pack(input, element, kernels, threads);
  workspace.of_thread.resize(static_cast<size_t>(threads.size()));
  const int64_t tiles = band_tiles(jobs, kernels, threads.size()), rows = tiles * kTileRows;
  std::vector<int64_t> first;
  int64_t bands = 0;
  for (const PlaneJob& job : jobs) {
    first.push_back(bands);
    bands += (job.matrix->rows() + rows - 1) / rows;
  }
  threads.run(bands, 1, [&](int64_t begin, int64_t end, int thread) {
    if (kernels.begin) kernels.begin();
    for (int64_t i = begin; i < end; ++i) {
      const size_t j = static_cast<size_t>(std::upper_bound(first.begin(), first.end(), i) - first.begin()) - 1;
      const int64_t row = (i - first[j]) * rows, left = jobs[j].matrix->rows() - row;
      const Band band{.job = jobs[j],
                      .input = workspace.input,
                      .kernels = kernels,
                      .element = element,
                      .tokens = input.tokens(),
                      .flush = high_precision ? 32 : kGroupColumns,
                      .first = row,
                      .tiles = std::min(tiles, (left + kTileRows - 1) / kTileRows)};
      band.run(workspace.of_thread[static_cast<size_t>(thread)]);
    }
    if (kernels.end) kernels.end();
  });
}

}  // namespace tq::cpu
