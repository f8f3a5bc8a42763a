#include "kernels/cpu/plane/plane_matrix.h"

#include <algorithm>

#include "base/float16.h"

namespace tq::cpu {
namespace {

constexpr int64_t kFilterRows = 128;  // rows that are filtered at a time
constexpr double kHighPrecisionRate = 4.75;

}  // namespace

PlaneMatrix::PlaneMatrix(grid::Matrix matrix) : matrix_(std::move(matrix)) {
  const grid::Layout& layout = matrix_.layout;
  high_precision_ = static_cast<double>(layout.plane_rows) >= kHighPrecisionRate * static_cast<double>(layout.rows);
}

uint64_t PlaneMatrix::bytes() const { return matrix_.layout.bytes() + static_cast<uint64_t>(matrix_.layout.rows) * sizeof(uint16_t); }

void PlaneMatrix::product(const PlaneInput& input, int64_t begin, int64_t end, ProductKernel kernel, float* z) const {
  const grid::Layout& layout = matrix_.layout;
  const int64_t lines = layout.padded_columns / grid::kLineColumns;
  const int per_token = input.streams_per_token();
  const int64_t total = input.tokens() * per_token;
  for (int64_t block = begin; block < end; ++block) {
    ProductArgs args{.bits = matrix_.bits + block * lines * grid::kLineBytes, .lines = lines};
    for (int64_t t = 0; t < input.tokens(); ++t)
      std::fill_n(z + t * layout.padded_plane_rows + block * grid::kLineRows, grid::kLineRows, 0.0f);
    for (int64_t first = 0; first < total; first += args.streams) {
      args.streams = static_cast<int>(std::min<int64_t>(kMaxStreams, total - first));
      for (int s = 0; s < args.streams; ++s) {
        const int64_t token = (first + s) / per_token;
        args.stream[s] = input.stream(token, static_cast<int>((first + s) % per_token));
        args.z[s] = z + token * layout.padded_plane_rows + block * grid::kLineRows;
      }
      kernel(args);
    }
  }
}

void PlaneMatrix::filter_range(const float* z, float sum, int64_t begin, int64_t end, const float* bias, float* output) const {
  const grid::Layout& layout = matrix_.layout;
  const int64_t rate = layout.rate[static_cast<size_t>(begin)];
  const grid::Taps& taps = matrix_.taps[static_cast<size_t>(rate)];
  const auto window = static_cast<int64_t>(taps.size());
  // Part i of the window holds every rate-th plane row, so that the rows' values lie side by side.
  constexpr int64_t kPart = kFilterRows + grid::kMaxWindow;
  float parts[grid::kMaxRate][kPart];
  const int64_t rows = end - begin, count = (rows - 1) * rate + window;
  int64_t at = layout.newest[static_cast<size_t>(begin)] - window + 1;
  while (at < 0) at += layout.plane_rows;
  for (int64_t n = 0, part = 0, slot = 0; n < count; ++n) {
    parts[part][slot] = z[at];
    if (++at == layout.plane_rows) at = 0;
    if (++part == rate) part = 0, ++slot;
  }
  float y[kFilterRows] = {};
  double tap_sum = 0;
  for (int64_t j = 0; j < window; ++j) {
    const int64_t offset = window - 1 - j;
    const float* values = parts[offset % rate] + offset / rate;
    const float tap = taps[static_cast<size_t>(j)];
    tap_sum += tap;
    for (int64_t r = 0; r < rows; ++r) y[r] += tap * values[r];
  }
  const float shift = sum * static_cast<float>(tap_sum);
  for (int64_t r = 0; r < rows; ++r) {
    const float scale = f16_to_float(matrix_.row_scale[begin + r]);
    output[begin + r] = scale * (2.0f * y[r] - shift) + (bias ? bias[begin + r] : 0.0f);
  }
}

void PlaneMatrix::filter(const PlaneInput& input, const float* z, int64_t begin, int64_t end, const float* bias, float* output,
                         int64_t stride) const {
  const grid::Layout& layout = matrix_.layout;
  for (int64_t first = begin; first < end;) {
    int64_t last = first + 1;
    while (last < end && last - first < kFilterRows && layout.rate[static_cast<size_t>(last)] == layout.rate[static_cast<size_t>(first)])
      ++last;
    for (int64_t t = 0; t < input.tokens(); ++t)
      filter_range(z + t * layout.padded_plane_rows, input.sum(t), first, last, bias, output + t * stride);
    first = last;
  }
}

void plane_linear(std::span<const PlaneJob> jobs, const PlaneInput& input, Isa isa, ThreadPool& threads, PlaneWorkspace& workspace) {
  struct Place {
    int64_t first_block, first_chunk, z;
  };
  std::vector<Place> places;
  int64_t blocks = 0, chunks = 0, z_count = 0;
  for (const PlaneJob& job : jobs) {
    places.push_back({blocks, chunks, z_count});
    blocks += job.matrix->blocks();
    chunks += (job.matrix->rows() + kFilterRows - 1) / kFilterRows;
    z_count += input.tokens() * job.matrix->matrix().layout.padded_plane_rows;
  }
  if (workspace.z.size() < static_cast<size_t>(z_count)) workspace.z = Buffer<float>::uninitialized(static_cast<size_t>(z_count));
  float* z = workspace.z.data();
  const ProductKernel kernel = product_kernel(isa);
  const auto job_of = [&](int64_t item, int64_t Place::*first) {
    size_t i = places.size() - 1;
    while (places[i].*first > item) --i;
    return i;
  };
  const int64_t grain = std::max<int64_t>(1, blocks / (8 * threads.size()));
  threads.run(blocks, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block) {
      const size_t i = job_of(block, &Place::first_block);
      const int64_t inside = block - places[i].first_block;
      jobs[i].matrix->product(input, inside, inside + 1, kernel, z + places[i].z);
    }
  });
  threads.run(chunks, std::max<int64_t>(1, chunks / (4 * threads.size())), [&](int64_t begin, int64_t end, int) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const size_t i = job_of(chunk, &Place::first_chunk);
      const int64_t rows = jobs[i].matrix->rows(), first = (chunk - places[i].first_chunk) * kFilterRows;
      jobs[i].matrix->filter(input, z + places[i].z, first, std::min(rows, first + kFilterRows), jobs[i].bias, jobs[i].output, rows);
    }
  });
}

}  // namespace tq::cpu
