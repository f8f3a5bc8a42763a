#include "kernels/cpu/rows/row_matrix.h"

#include <algorithm>
#include <vector>

#include "codec/interleaved_rows.h"
#include "kernels/cpu/grow.h"
#include "tensor/ggml_types.h"

namespace tq::cpu {
namespace {

constexpr int64_t kChunkBytes = 96 << 10;  // that a thread claims at a time
constexpr int64_t kChunkRows = 64;         // at most

int64_t chunk_rows(const RowMatrix& matrix) { return std::clamp<int64_t>(kChunkBytes / matrix.row_bytes / 4 * 4, 4, kChunkRows); }

RoundedRows round(const float* input, int64_t tokens, int64_t columns, const RowKernels& kernels, ThreadPool& threads,
                  RowWorkspace& workspace) {
  const int64_t groups = (columns + kRoundGroup - 1) / kRoundGroup;
  int16_t* values = grow(workspace.values, tokens * columns);
  float* scale = grow(workspace.scale, tokens * groups);
  float* sums16 = grow(workspace.sums16, tokens * (columns / 16));
  float* sums32 = grow(workspace.sums32, tokens * (columns / 32));
  const auto work = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      kernels.round(input + t * columns, columns, values + t * columns, scale + t * groups, sums16 + t * (columns / 16),
                    sums32 + t * (columns / 32));
  };
  if (tokens == 1) work(0, 1, 0);
  else threads.run(tokens, 1, work);
  return {values, scale, sums16, sums32};
}

// Rows [begin, begin + count) in the order of the file, count <= kChunkRows.
void multiply_chunk(const RowJob& job, int64_t begin, int64_t count, RowArgs args, const RowKernels& kernels) {
  const RowMatrix& matrix = *job.matrix;
  float products[kRowTokens * kChunkRows];
  args.rows = matrix.data + begin * matrix.row_bytes;
  args.row_bytes = matrix.row_bytes;
  args.count = count;
  args.output = products;
  args.stride = kChunkRows;
  kernels.multiply(matrix.format, args);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = logical_row(begin + i, matrix.interleaved_head_dim);
    for (int64_t t = 0; t < args.tokens; ++t)
      job.output[t * matrix.rows + row] = products[t * kChunkRows + i] + (job.bias ? job.bias[row] : 0.0f);
  }
}

}  // namespace

const char* RowMatrix::name() const {
  constexpr const char* kNames[] = {"f32", "f16", "bf16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};
  return kNames[static_cast<size_t>(format)];
}

std::optional<RowMatrix> row_matrix(const PackedTensor& tensor, int64_t expert) {
  const std::optional<RowFormat> format = row_format(tensor);
  if (!format) return std::nullopt;
  RowMatrix matrix{.format = *format,
                   .data = tensor.parts[0].view.data,
                   .rows = tensor.shape[tensor.shape.size() - 2],
                   .columns = tensor.columns(),
                   .interleaved_head_dim = tensor.interleaved_head_dim};
  if (tensor.codec == CodecId::kGgml) {
    const GgmlType* type = ggml_type(tensor.variant);
    matrix.row_bytes = matrix.columns / type->block_size * type->block_bytes;
  } else {
    matrix.row_bytes = matrix.columns * static_cast<int64_t>(dtype_size(tensor.parts[0].view.dtype));
  }
  if (tensor.parts.size() > 1) {  // a part for every expert; one of another type has its own format
    const TensorView& view = tensor.parts[static_cast<size_t>(expert)].view;
    if (view.dtype != tensor.parts[0].view.dtype) return std::nullopt;
    matrix.data = view.data;
  } else {
    matrix.data += expert * matrix.rows * matrix.row_bytes;
  }
  return matrix;
}

void row_linear(std::span<const RowJob> jobs, const float* input, int64_t tokens, Isa isa, ThreadPool& threads, RowWorkspace& workspace) {
  const RowKernels& kernels = row_kernels(isa);
  const int64_t columns = jobs[0].matrix->columns;
  RowArgs args{.columns = columns, .tokens = tokens, .input = input};
  if (std::any_of(jobs.begin(), jobs.end(), [](const RowJob& job) { return is_blocks(job.matrix->format); }))
    args.rounded = round(input, tokens, columns, kernels, threads, workspace);
  std::vector<int64_t> first;  // chunk of each job
  int64_t chunks = 0;
  for (const RowJob& job : jobs) {
    first.push_back(chunks);
    chunks += (job.matrix->rows + chunk_rows(*job.matrix) - 1) / chunk_rows(*job.matrix);
  }
  threads.run(chunks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const size_t i = static_cast<size_t>(std::upper_bound(first.begin(), first.end(), chunk) - first.begin()) - 1;
      const RowMatrix& matrix = *jobs[i].matrix;
      const int64_t rows = chunk_rows(matrix), row = (chunk - first[i]) * rows;
      multiply_chunk(jobs[i], row, std::min(rows, matrix.rows - row), args, kernels);
    }
  });
}

}  // namespace tq::cpu
