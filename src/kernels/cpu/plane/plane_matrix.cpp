#include "kernels/cpu/plane/plane_matrix.h"

#include <algorithm>

#include "kernels/plane_sizes.h"

namespace tq::cpu {
namespace {

constexpr int64_t kChunksPerThread = 32;

}  // namespace

PlaneMatrix::PlaneMatrix(grid::Matrix matrix) : matrix_(std::move(matrix)) {
  const grid::Layout& layout = matrix_.layout;
  const bool is_fine = matrix_.rate() >= kFineActivationRate;
  high_precision_ = matrix_.activation_bits == 0 ? is_fine : matrix_.activation_bits > 8;
  for (int64_t block = 0; block < blocks(); ++block)
    first_row_.push_back(std::lower_bound(layout.newest.begin(), layout.newest.end(), block * grid::kLineRows) - layout.newest.begin());
  first_row_.push_back(layout.rows);
  for (const uint8_t rate : layout.rate)
    if (!tap_tables_[rate]) tap_tables_[rate] = std::make_unique<TapTable>(make_tap_table(matrix_.taps[rate], rate));
}

int64_t PlaneMatrix::first_whole_row(int64_t block) const {
  const grid::Layout& layout = matrix_.layout;
  const int64_t start = block * grid::kLineRows;
  int64_t whole = first_row(block);
  // Windows differ from rate to rate, so that a row may reach further back than the one before it.
  for (int64_t row = whole; row < layout.rows; ++row) {
    const auto at = static_cast<size_t>(row);
    if (layout.newest[at] >= start + grid::kMaxWindow) break;
    if (layout.newest[at] - static_cast<int64_t>(matrix_.taps[layout.rate[at]].size()) + 1 < start) whole = row + 1;
  }
  return whole;
}

uint64_t PlaneMatrix::bytes() const { return matrix_.layout.bytes() + static_cast<uint64_t>(matrix_.layout.rows) * sizeof(uint16_t); }

void PlaneMatrix::product(const PlaneInput& input, int64_t begin, int64_t end, ProductKernel kernel, float* z) const {
  const grid::Layout& layout = matrix_.layout;
  const int64_t lines = layout.padded_columns / grid::kLineColumns;
  const int per_token = input.streams_per_token();
  const int64_t total = input.tokens() * per_token;
  for (int64_t block = begin; block < end; block += kProductBlocks) {
    const int64_t first_plane_row = block * grid::kLineRows;
    ProductArgs args{
        .bits = matrix_.bits + block * lines * grid::kLineBytes, .lines = lines, .blocks = std::min(kProductBlocks, end - block)};
    for (int64_t t = 0; t < input.tokens(); ++t)
      std::fill_n(z + t * layout.padded_plane_rows + first_plane_row, args.blocks * grid::kLineRows, 0.0f);
    for (int64_t first = 0; first < total; first += args.streams) {
      args.streams = static_cast<int>(std::min<int64_t>(kMaxStreams, total - first));
      for (int s = 0; s < args.streams; ++s) {
        const int64_t token = (first + s) / per_token;
        args.stream[s] = input.stream(token, static_cast<int>((first + s) % per_token));
        args.z[s] = z + token * layout.padded_plane_rows + first_plane_row;
      }
      kernel(args);
    }
  }
}

void PlaneMatrix::filter(const PlaneInput& input, const float* z, int64_t begin, int64_t end, const PlaneKernels& kernels,
                         const float* bias, float* output) const {
  const grid::Layout& layout = matrix_.layout;
  for (int64_t first = begin; first < end;) {
    const uint8_t rate = layout.rate[static_cast<size_t>(first)];
    int64_t last = first + 1;
    while (last < end && last - first < kFilterRows && layout.rate[static_cast<size_t>(last)] == rate) ++last;
    FilterArgs args{.plane_rows = layout.plane_rows,
                    .newest = layout.newest[static_cast<size_t>(first)],
                    .rate = rate,
                    .rows = last - first,
                    .taps = matrix_.taps[rate].data(),
                    .window = static_cast<int64_t>(matrix_.taps[rate].size()),
                    .row_scale = matrix_.row_scale + first,
                    .bias = bias ? bias + first : nullptr};
    for (int64_t t = 0; t < input.tokens(); ++t) {
      args.z = z + t * layout.padded_plane_rows;
      args.sum = input.sum(t);
      args.output = output + t * layout.rows + first;
      kernels.filter(args);
    }
    first = last;
  }
}

namespace {

// A job cut into chunks of blocks. Chunk c's seam is between it and the chunk before it (for c = 0 the last one): rows whose windows reach
// over it are filtered by whoever finishes the second of the two.
struct Place {
  int64_t first_chunk, chunks, blocks, z;
  int64_t begin(int64_t chunk) const { return chunk * blocks; }
};

// The last chunk takes what is left over, so that it never is a single block: a window may reach over the padding behind the ring's end.
Place place_of(const PlaneMatrix& matrix, int64_t blocks, int64_t first_chunk, int64_t z) {
  return {first_chunk, std::max<int64_t>(1, matrix.blocks() / blocks), blocks, z};
}

struct Task {
  const PlaneJob& job;
  const Place& place;
  const PlaneInput& input;
  float* z;
  ProductKernel product;
  const PlaneKernels& kernels;
  std::atomic<uint8_t>* seams;

  int64_t end(int64_t chunk) const { return chunk + 1 == place.chunks ? job.matrix->blocks() : place.begin(chunk + 1); }
  void filter(int64_t begin, int64_t stop) const { job.matrix->filter(input, z, begin, stop, kernels, job.bias, job.output); }
  void finish_seam(int64_t chunk) const {
    if (seams[chunk].fetch_add(1, std::memory_order_acq_rel) != 1) return;
    const int64_t block = place.begin(chunk);
    filter(job.matrix->first_row(block), std::min(job.matrix->first_row(end(chunk)), job.matrix->first_whole_row(block)));
  }
  void run(int64_t chunk) const {
    const int64_t begin = place.begin(chunk), stop = end(chunk);
    job.matrix->product(input, begin, stop, product, z);
    filter(job.matrix->first_whole_row(begin), job.matrix->first_row(stop));
    finish_seam(chunk);
    finish_seam((chunk + 1) % place.chunks);
  }
};

// The chunks of all jobs of a call.
class Chunks {
 public:
  Chunks(std::span<const PlaneJob> jobs, const PlaneInput& input, Isa isa, int threads, PlaneWorkspace& workspace)
      : jobs_(jobs), input_(input), product_(product_kernel(isa)), kernels_(plane_kernels(isa)), workspace_(workspace) {
    int64_t blocks = 0, z_count = 0;
    for (const PlaneJob& job : jobs) blocks += job.matrix->blocks();
    const int64_t grain = std::max<int64_t>(1, blocks / (kChunksPerThread * threads * kProductBlocks)) * kProductBlocks;
    for (const PlaneJob& job : jobs) {
      places_.push_back(place_of(*job.matrix, grain, count_, z_count));
      count_ += places_.back().chunks;
      z_count += input.tokens() * job.matrix->matrix().layout.padded_plane_rows;
    }
    if (workspace.z.size() < static_cast<size_t>(z_count)) workspace.z = Buffer<float>::uninitialized(static_cast<size_t>(z_count));
    if (workspace.seams.size() < static_cast<size_t>(count_))
      workspace.seams = std::vector<std::atomic<uint8_t>>(static_cast<size_t>(count_));
    for (int64_t i = 0; i < count_; ++i) workspace.seams[static_cast<size_t>(i)].store(0, std::memory_order_relaxed);
  }

  int64_t count() const { return count_; }
  void run(int64_t chunk) const {
    const size_t i = job_of(chunk);
    const Place& place = places_[i];
    std::atomic<uint8_t>* seams = workspace_.seams.data() + place.first_chunk;
    const Task task{jobs_[i], place, input_, workspace_.z.data() + place.z, product_, kernels_, seams};
    task.run(chunk - place.first_chunk);
  }

 private:
  size_t job_of(int64_t chunk) const {
    size_t i = places_.size() - 1;
    while (places_[i].first_chunk > chunk) --i;
    return i;
  }

  std::span<const PlaneJob> jobs_;
  const PlaneInput& input_;
  ProductKernel product_;
  const PlaneKernels& kernels_;
  PlaneWorkspace& workspace_;
  std::vector<Place> places_;
  int64_t count_ = 0;
};

// Chunks cut into a stretch for each thread: one run of memory, so that what is fetched ahead of a chunk's end is needed next. Who has done
// its own helps the others.
class Stretches {
 public:
  Stretches(int64_t chunks, int threads, std::vector<PlaneWorkspace::Next>& next) : chunks_(chunks), count_(threads), next_(next) {
    if (next.size() < static_cast<size_t>(count_)) next = std::vector<PlaneWorkspace::Next>(static_cast<size_t>(count_));
    for (int64_t i = 0; i < count_; ++i) next[static_cast<size_t>(i)].chunk.store(begin(i), std::memory_order_relaxed);
  }

  int64_t count() const { return count_; }
  int64_t begin(int64_t stretch) const { return chunks_ * stretch / count_; }
  template <typename Work>
  void run(int64_t own, const Work& work) const {
    for (int64_t i = own; i < own + count_; ++i) {
      std::atomic<int64_t>& next = next_[static_cast<size_t>(i % count_)].chunk;
      for (int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < begin(i % count_ + 1);) work(chunk);
    }
  }

 private:
  int64_t chunks_, count_;
  std::vector<PlaneWorkspace::Next>& next_;
};

}  // namespace

void plane_linear(std::span<const PlaneJob> jobs, const PlaneInput& input, Isa isa, ThreadPool& threads, PlaneWorkspace& workspace) {
  const Chunks chunks(jobs, input, isa, threads.size(), workspace);
  const Stretches stretches(chunks.count(), threads.size(), workspace.next);
  threads.run(stretches.count(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t own = begin; own < end; ++own) stretches.run(own, [&](int64_t chunk) { chunks.run(chunk); });
  });
}

}  // namespace tq::cpu
