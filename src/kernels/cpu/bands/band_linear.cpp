#include "kernels/cpu/bands/band_linear.h"

#include <algorithm>

#include "kernels/cpu/grow.h"

namespace tq::cpu {
namespace {

constexpr int64_t kBlockColumns = 256;  // of a panel that stay in the first-level cache
constexpr int64_t kSumTokens = 768;     // whose sums stay in the second; a multiple of every kernel's tokens

struct Band {
  const BandJob& job;
  const BandInput& input;
  const FloatKernels& kernels;
  int64_t first, count;  // rows

  // sums[t][row] of the token blocks [begin, end).
  void multiply(const float* rows, int64_t begin, int64_t end, float* panel, float* sums) const {
    for (int64_t k = 0; k < input.columns(); k += kBlockColumns) {
      const int64_t columns = std::min(kBlockColumns, input.columns() - k);
      kernels.pack_panel(rows + k, count, columns, input.columns(), panel);
      for (int64_t block = begin; block < end; ++block)
        kernels.multiply_panel({.input = input.block(block) + k * kernels.tokens,
                                .panel = panel,
                                .sums = sums + (block - begin) * kernels.tokens * kernels.panel_rows,
                                .columns = columns});
    }
  }

  void write(const float* sums, int64_t begin, int64_t end) const {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t r = 0; r < count; ++r)
        job.output[t * job.rows + first + r] = sums[(t - begin) * kernels.panel_rows + r] + (job.bias ? job.bias[first + r] : 0.0f);
  }

  void run(BandWorkspace::Thread& memory) const {
    float* rows = grow(memory.rows, kernels.panel_rows * input.columns());
    float* panel = grow(memory.panel, kernels.panel_rows * kBlockColumns);
    float* sums = grow(memory.sums, kSumTokens * kernels.panel_rows);
    job.decode(first, count, rows);
    const int64_t step = kSumTokens / kernels.tokens;
    for (int64_t block = 0; block < input.blocks(); block += step) {
      const int64_t end = std::min(input.blocks(), block + step);
      std::fill_n(sums, (end - block) * kernels.tokens * kernels.panel_rows, 0.0f);
      multiply(rows, block, end, panel, sums);
      write(sums, block * kernels.tokens, std::min(input.tokens(), end * kernels.tokens));
    }
  }
};

}  // namespace

void BandInput::pack(const float* input, int64_t tokens, int64_t columns, const FloatKernels& kernels, ThreadPool& threads) {
  tokens_ = tokens, columns_ = columns, block_tokens_ = kernels.tokens;
  blocks_ = (tokens + block_tokens_ - 1) / block_tokens_;
  grow(values_, blocks_ * columns * block_tokens_);
  threads.run(blocks_, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      float* out = values_.data() + i * columns * block_tokens_;
      const int64_t here = std::min(block_tokens_, tokens - i * block_tokens_);
      for (int64_t k = 0; k < columns; ++k, out += block_tokens_) {
        for (int64_t t = 0; t < here; ++t) out[t] = input[(i * block_tokens_ + t) * columns + k];
        std::fill(out + here, out + block_tokens_, 0.0f);
      }
    }
  });
}

void band_linear(const BandJob& job, const BandInput& input, const FloatKernels& kernels, ThreadPool& threads, BandWorkspace& workspace) {
  workspace.of_thread.resize(static_cast<size_t>(threads.size()));
  const int64_t bands = (job.rows + kernels.panel_rows - 1) / kernels.panel_rows;
  threads.run(bands, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t band = begin; band < end; ++band) {
      const int64_t first = band * kernels.panel_rows;
      const Band work{job, input, kernels, first, std::min(kernels.panel_rows, job.rows - first)};
      work.run(workspace.of_thread[static_cast<size_t>(thread)]);
    }
  });
}

}  // namespace tq::cpu
