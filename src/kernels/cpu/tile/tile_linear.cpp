#include "kernels/cpu/tile/tile_linear.h"

#include <algorithm>
#include <cstring>

#include "base/float16.h"

namespace tq::cpu {
namespace {

constexpr int64_t kBlockColumns = 512;  // of a panel that stay in the first-level cache
constexpr int64_t kSumTokens = 768;     // whose sums stay in the second; a multiple of every kernel's tokens

template <typename T>
T* grow(Buffer<T>& buffer, int64_t count) {
  if (buffer.size() < static_cast<size_t>(count)) buffer = Buffer<T>::uninitialized(static_cast<size_t>(count));
  return buffer.data();
}

// One tile of one job, and what all tiles share.
struct Tile {
  const PlaneJob& job;
  const TileInput& input;
  const TileKernels& kernels;
  TileElement element;
  int64_t tokens, flush, first;  // first row

  const grid::Matrix& matrix() const { return job.matrix->matrix(); }
  const TapTable& taps() const { return job.matrix->tap_table(matrix().layout.rate[static_cast<size_t>(first)]); }
  int64_t rows() const { return std::min(kTileRows, matrix().layout.rows - first); }
  int64_t panel_bytes() const { return input.columns() * kPanelRows * bytes_of(element); }

  void decode(uint8_t* panels) const {
    const grid::Layout& layout = matrix().layout;
    kernels.decode({.bits = matrix().bits,
                    .lines = layout.padded_columns / grid::kLineColumns,
                    .plane_rows = layout.plane_rows,
                    .newest = layout.newest[static_cast<size_t>(first)],
                    .rows = rows(),
                    .taps = &taps()},
                   element, panels, panel_bytes());
  }

  float* output(int64_t token) const { return job.output + token * matrix().layout.rows + first; }

  // sums[t][row] of the token blocks [begin, end).
  void multiply(const uint8_t* panels, int64_t begin, int64_t end, float* sums) const {
    for (int64_t k = 0; k < input.columns(); k += kBlockColumns)
      for (int64_t panel = 0; panel * kPanelRows < rows(); panel += kernels.panels)
        kernels.multiply(element, {.panel = panels + panel * panel_bytes() + k * kPanelRows * bytes_of(element),
                                   .panel_bytes = panel_bytes(),
                                   .input = input.values(begin) + k * (input.block_bytes() / input.columns()),
                                   .scale = input.scale(begin) + k / kGroupColumns * kernels.tokens,
                                   .offset = input.offset(begin) + k / kGroupColumns * kernels.tokens,
                                   .blocks = end - begin,
                                   .input_bytes = input.block_bytes(),
                                   .scale_stride = input.scale_stride(),
                                   .columns = std::min(kBlockColumns, input.columns() - k),
                                   .flush = flush,
                                   .sums = sums + panel * kPanelRows,
                                   .output = k + kBlockColumns < input.columns() ? nullptr : output(begin * kernels.tokens),
                                   .output_stride = matrix().layout.rows,
                                   .tokens = tokens - begin * kernels.tokens});
  }

  void write(const float* sums, int64_t begin, int64_t end) const {
    const int64_t count = rows();
    const float unit = taps().unit * (is_bytes(element) ? 32.0f : 1.0f);
    float scale[kTileRows] = {}, bias[kTileRows] = {};
    for (int64_t r = 0; r < count; ++r) {
      scale[r] = f16_to_float(matrix().row_scale[first + r]) * unit;
      if (job.bias) bias[r] = job.bias[first + r];
    }
    kernels.write({.sums = sums,
                   .tokens = end - begin,
                   .rows = count,
                   .scale = scale,
                   .bias = bias,
                   .output = output(begin),
                   .stride = matrix().layout.rows});
  }

  void run(TileWorkspace::Thread& memory) const {
    uint8_t* panels = grow(memory.panels, 2 * panel_bytes());
    float* sums = grow(memory.sums, kSumTokens * kTileRows);
    decode(panels);
    const int64_t step = kSumTokens / kernels.tokens;
    for (int64_t block = 0; block < input.blocks(); block += step) {
      const int64_t end = std::min(input.blocks(), block + step);
      std::fill_n(sums, (end - block) * kernels.tokens * kTileRows, 0.0f);
      multiply(panels, block, end, sums);
      write(sums, block * kernels.tokens, std::min(tokens, end * kernels.tokens));
    }
  }
};

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
  std::vector<int64_t> first;
  int64_t tiles = 0;
  for (const PlaneJob& job : jobs) {
    first.push_back(tiles);
    tiles += (job.matrix->rows() + kTileRows - 1) / kTileRows;
  }
  threads.run(tiles, 1, [&](int64_t begin, int64_t end, int thread) {
    if (kernels.begin) kernels.begin();
    for (int64_t i = begin; i < end; ++i) {
      const size_t j = static_cast<size_t>(std::upper_bound(first.begin(), first.end(), i) - first.begin()) - 1;
      const Tile tile{
          jobs[j], workspace.input, kernels, element, input.tokens(), high_precision ? 32 : kGroupColumns, (i - first[j]) * kTileRows};
      tile.run(workspace.of_thread[static_cast<size_t>(thread)]);
    }
    if (kernels.end) kernels.end();
  });
}

}  // namespace tq::cpu
