#include "kernels/cuda/encode/grid_rounder.h"

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "kernels/cuda/encode/column.cuh"
#include "kernels/cuda/encode/viterbi.cuh"

namespace tq::cuda {
namespace {

constexpr int64_t kBlockColumns = 128;  // columns whose feedback from before is summed at once
constexpr int kJunctionRows = 48;       // searched again on each side of a junction
constexpr int kOverlapRows = 24;        // beyond a stretch, so that its ends are as good as its middle
constexpr int64_t kLeastStretch = 2 * kJunctionRows + 32, kMostStretch = kMostSteps - 2 * kOverlapRows - 64;
constexpr int kThreads = 256;
constexpr int64_t kBusyWarps = 12;  // of a multiprocessor, which keep it busy with eight states a thread

struct DeviceError {
  std::string text;
};
void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw DeviceError{std::string(what) + ": " + cudaGetErrorString(status)};
}
void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw DeviceError{std::string(what) + ": cuBLAS error " + std::to_string(static_cast<int>(status))};
}

template <typename T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t count) {
    if (count > 0) check(cudaMalloc(&data_, count * sizeof(T)), "memory of the device");
  }
  Array(const T* host, size_t count) : Array(count) { upload(host, count); }
  explicit Array(const std::vector<T>& host) : Array(host.data(), host.size()) {}
  Array(Array&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Array& operator=(Array&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Array() { cudaFree(data_); }
  T* get() const { return data_; }
  void upload(const T* host, size_t count) {
    if (count > 0) check(cudaMemcpy(data_, host, count * sizeof(T), cudaMemcpyHostToDevice), "copy to the device");
  }
  void download(T* host, size_t count) const {
    if (count > 0) check(cudaMemcpy(host, data_, count * sizeof(T), cudaMemcpyDeviceToHost), "copy from the device");
  }

 private:
  T* data_ = nullptr;
};

unsigned blocks_for(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

// The trellis of a batch, in host memory and on the device.
struct Trellis {
  int state_bits = kLeastStateBits;
  bool is_wide = false;
  float clamp = 0.0f;
  Array<float> newer, older, taps;
  Array<int32_t> window;
  TrellisTables tables{};

  Trellis(const RoundBatch& batch) {
    bool used[kTrellisRates] = {};
    for (const RoundMatrix& matrix : batch.matrices)
      for (int64_t r = 0; r < matrix.rows; ++r) used[matrix.rate[r]] = true;
    for (int rate = 0; rate < kTrellisRates; ++rate)
      if (used[rate]) state_bits = std::max(state_bits, static_cast<int>(batch.taps[rate].size()) - rate);
    if (state_bits > kMostStateBits) throw DeviceError{"windows of more than 12 bits beyond the rate"};
    state_bits += state_bits % 2;  // kernels are built for 8, 10 and 12
    const size_t states = size_t{1} << state_bits;
    std::vector<float> host_newer(kTrellisRates * states), host_older(512), host_taps(kTrellisRates * kWindowTaps);
    std::vector<int32_t> host_window(kTrellisRates);
    for (int rate = 2; rate < kTrellisRates; ++rate) {
      if (!used[rate]) continue;
      is_wide |= rate > 4;
      const std::vector<float>& row = batch.taps[rate];
      std::vector<float> padded(row);
      padded.resize(static_cast<size_t>(state_bits + rate), 0.0f);
      fill(padded.data(), state_bits, host_newer.data() + static_cast<size_t>(rate) * states);
      fill(padded.data() + state_bits, rate, host_older.data() + (size_t{1} << rate));
      std::copy(row.begin(), row.end(), host_taps.begin() + rate * kWindowTaps);
      host_window[static_cast<size_t>(rate)] = static_cast<int32_t>(row.size());
      float sum = 0.0f;
      for (const float tap : row) sum += std::fabs(tap);
      clamp = std::max(clamp, 8.0f * sum);
    }
    newer = Array<float>(host_newer), older = Array<float>(host_older), taps = Array<float>(host_taps),
    window = Array<int32_t>(host_window);
    tables = {newer.get(), older.get(), taps.get(), window.get()};
  }

 private:
  static void fill(const float* c, int bits, float* out) {
    for (uint32_t word = 0; word < 1u << bits; ++word) out[word] = window_sum(word, c, bits);
  }
  static float window_sum(uint32_t word, const float* c, int bits) {
    float sum = 0.0f;
    for (int j = 0; j < bits; ++j) sum += word >> j & 1 ? c[j] : -c[j];
    return sum;
  }
};

// Stretches of the rings, and their junctions.
struct Runs {
  std::vector<Run> stretches, junctions;

  static int64_t stretches_of(int64_t rows, int64_t stretch) { return (rows + stretch - 1) / stretch; }
  void add(int32_t ring_begin, int32_t ring_rows, int64_t stretch_rows) {
    const auto count = static_cast<int32_t>(stretches_of(ring_rows, stretch_rows));
    const int32_t margin = std::min<int32_t>(kJunctionRows, (ring_rows / count - 8) / 2);
    for (int32_t i = 0; i < count; ++i) {
      const auto begin = static_cast<int32_t>(int64_t{ring_rows} * i / count),
                 end = static_cast<int32_t>(int64_t{ring_rows} * (i + 1) / count);
      stretches.push_back(
          {ring_begin, ring_rows, begin - kOverlapRows, end - begin + 2 * kOverlapRows, kOverlapRows, kOverlapRows + end - begin});
      junctions.push_back({ring_begin, ring_rows, begin - margin, 2 * margin, 0, 2 * margin});
    }
  }
};

class Rounder {
 public:
  explicit Rounder(const RoundBatch& batch) : batch_(batch), trellis_(batch), columns_(batch.columns), processors_(count_processors()) {
    check(cublasCreate(&blas_), "cuBLAS");
    stack_rows();
    make_runs();
    upload_matrices();
  }
  ~Rounder() { cublasDestroy(blas_); }
  Rounder(const Rounder&) = delete;

  void run(std::vector<RoundedMatrix>& out) {
    for (int64_t first = 0; first < columns_; first += kBlockColumns) {
      const int64_t last = std::min(columns_, first + kBlockColumns);
      start_block(first, last);
      for (int64_t k = first; k < last; ++k) round_column(k, first);
    }
    check(cudaDeviceSynchronize(), "rounding");
    collect(out);
  }

 private:
  struct Place {
    int64_t begin, rows;  // in the stack
    float* feedback;      // on the device
  };

  static int64_t count_processors() {
    int device = 0, count = 0;
    check(cudaGetDevice(&device), "the device");
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "the device");
    return count;
  }
  size_t area() const { return static_cast<size_t>(rows_) * static_cast<size_t>(columns_); }

  void stack_rows() {
    std::vector<uint8_t> rate;
    std::vector<uint16_t> matrix;
    std::vector<float> scale, root_weight;
    std::vector<int32_t> ring_begin, ring_rows;
    for (const RoundMatrix& each : batch_.matrices) {
      if (each.rows < kLeastDeviceRows) throw DeviceError{"a matrix of fewer than 64 rows"};
      places_.push_back({rows_, each.rows, nullptr});
      ring_begin.push_back(static_cast<int32_t>(rows_)), ring_rows.push_back(static_cast<int32_t>(each.rows));
      rows_ += each.rows;
      rate.insert(rate.end(), each.rate, each.rate + each.rows);
      matrix.insert(matrix.end(), static_cast<size_t>(each.rows), static_cast<uint16_t>(places_.size() - 1));
      const float largest = *std::max_element(each.scale, each.scale + each.rows);
      for (int64_t r = 0; r < each.rows; ++r) {
        scale.push_back(each.scale[r]);
        root_weight.push_back(each.scale[r] > 0 ? each.scale[r] / largest : -1.0f);
      }
    }
    rate_ = Array<uint8_t>(rate), matrix_ = Array<uint16_t>(matrix), scale_ = Array<float>(scale), root_weight_ = Array<float>(root_weight);
    ring_begin_ = Array<int32_t>(ring_begin), ring_rows_ = Array<int32_t>(ring_rows);
  }

  // Rows of a stretch: what takes the fewest steps one after another, given how many runs the device holds at once.
  int64_t choose_stretch() const {
    const int64_t at_once = processors_ * runs_per_processor();
    int64_t best = 0, least = 0;
    for (int64_t stretch = kLeastStretch; stretch <= kMostStretch; stretch += 16) {
      int64_t count = 0;
      for (const Place& place : places_) count += Runs::stretches_of(place.rows, stretch);
      const int64_t waves = (count + at_once - 1) / at_once, steps = waves * (stretch + 2 * kOverlapRows + 2 * kJunctionRows);
      if (best == 0 || steps < least) best = stretch, least = steps;
    }
    return best;
  }

  int64_t runs_per_processor() const {
    int count = 0;
    with_kernel(kManyStates, [&]<typename V>(auto kernel) {
      check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, kernel, V::kThreads, V::kBufferWords * sizeof(float)), "occupancy");
    });
    return std::max(count, 1);
  }

  // Calls `use` with the kernel of the trellis. own: states of a thread.
  template <typename Use>
  void with_kernel(int own, const Use& use) const {
    switch (trellis_.state_bits) {
      case 8: return with_states<8>(own, use);
      case 10: return with_states<10>(own, use);
      default: return with_states<12>(own, use);
    }
  }
  template <int kStateBits, typename Use>
  void with_states(int own, const Use& use) const {
    constexpr int kLeast = kStateBits == 12 ? 2 * kFewStates : kFewStates;  // a thread block has up to 1024 threads
    if (own == kManyStates) with_width<kStateBits, kManyStates>(use);
    else with_width<kStateBits, kLeast>(use);
  }
  template <int kStateBits, int kOwn, typename Use>
  void with_width(const Use& use) const {
    if (trellis_.is_wide) use.template operator()<Viterbi<kStateBits, kOwn, true>>(&viterbi<kStateBits, kOwn, true>);
    else use.template operator()<Viterbi<kStateBits, kOwn, false>>(&viterbi<kStateBits, kOwn, false>);
  }

  void make_runs() {
    const int64_t stretch = batch_.stretch_rows > 0 ? batch_.stretch_rows : choose_stretch();
    Runs runs;
    for (const Place& place : places_) runs.add(static_cast<int32_t>(place.begin), static_cast<int32_t>(place.rows), stretch);
    for (const Run& run : runs.stretches)
      if (run.steps > kMostSteps) throw DeviceError{"a stretch of too many rows"};
    stretch_count_ = static_cast<unsigned>(runs.stretches.size()), junction_count_ = static_cast<unsigned>(runs.junctions.size());
    stretches_ = Array<Run>(runs.stretches), junctions_ = Array<Run>(runs.junctions);
    const size_t words = (size_t{1} << trellis_.state_bits) / (trellis_.is_wide ? 4 : 8);
    decisions_ = Array<uint32_t>(runs.stretches.size() * kMostSteps * words);
  }

  void upload_matrices() {
    weight_ = Array<float>(area()), value_ = Array<float>(area()), error_ = Array<float>(area()), symbols_ = Array<uint8_t>(area());
    block_ = Array<float>(static_cast<size_t>(kBlockColumns * rows_)), target_ = Array<float>(static_cast<size_t>(rows_));
    std::vector<float*> feedback;
    for (size_t i = 0; i < places_.size(); ++i) {
      const RoundMatrix& each = batch_.matrices[i];
      check(cudaMemcpy2D(weight_.get() + places_[i].begin, static_cast<size_t>(rows_) * 4, each.weight,
                         static_cast<size_t>(places_[i].rows) * 4, static_cast<size_t>(places_[i].rows) * 4, static_cast<size_t>(columns_),
                         cudaMemcpyHostToDevice),
            "copy to the device");
      places_[i].feedback = square(each.feedback);
      feedback.push_back(places_[i].feedback);
    }
    feedback_ = Array<float*>(feedback);
  }

  // A [C, C] matrix on the device, once for all who share it.
  float* square(const float* host) {
    if (!host) return nullptr;
    auto found = squares_.find(host);
    if (found == squares_.end()) found = squares_.emplace(host, Array<float>(host, static_cast<size_t>(columns_ * columns_))).first;
    return found->second.get();
  }

  // block_ = W' + what the columns before have fed back.
  void start_block(int64_t first, int64_t last) {
    const int64_t width = last - first;
    check(cudaMemcpyAsync(block_.get(), weight_.get() + first * rows_, static_cast<size_t>(width * rows_) * 4, cudaMemcpyDeviceToDevice),
          "copy");
    if (first == 0) return;
    const float one = 1.0f;
    for (const Place& place : places_) {
      if (!place.feedback) continue;
      // Column-major: block[rows, width] += error[rows, first] · feedback[first, width]
      check(cublasSgemm(blas_, CUBLAS_OP_N, CUBLAS_OP_T, static_cast<int>(place.rows), static_cast<int>(width), static_cast<int>(first),
                        &one, error_.get() + place.begin, static_cast<int>(rows_), place.feedback + first, static_cast<int>(columns_), &one,
                        block_.get() + place.begin, static_cast<int>(rows_)),
            "feedback");
    }
  }

  void round_column(int64_t k, int64_t first) {
    const ColumnArgs args{.rows = rows_,
                          .columns = columns_,
                          .column = k,
                          .block_begin = first,
                          .wanted = block_.get(),
                          .weight = weight_.get(),
                          .scale = scale_.get(),
                          .clamp = trellis_.clamp,
                          .feedback = feedback_.get(),
                          .matrix = matrix_.get(),
                          .ring_begin = ring_begin_.get(),
                          .ring_rows = ring_rows_.get(),
                          .rate = rate_.get(),
                          .tables = trellis_.tables,
                          .target = target_.get(),
                          .symbols = symbols_.get(),
                          .value = value_.get(),
                          .error = error_.get()};
    column_target<<<blocks_for(rows_), kThreads>>>(args);
    search(k, stretches_.get(), stretch_count_, false);
    search(k, junctions_.get(), junction_count_, true);
    column_value<<<blocks_for(rows_), kThreads>>>(args);
    check(cudaGetLastError(), "a kernel");
  }

  void search(int64_t k, const Run* runs, unsigned count, bool fixed_ends) {
    const ViterbiArgs args{
        runs, target_.get(), root_weight_.get(), rate_.get(), trellis_.tables, symbols_.get() + k * rows_, decisions_.get(), fixed_ends};
    with_kernel(own_states(count), [&]<typename V>(auto kernel) { kernel<<<count, V::kThreads, V::kBufferWords * sizeof(float)>>>(args); });
  }
  // Of a thread. The order of what is compared is the same, and so are the bytes.
  int own_states(unsigned runs) const {
    const int64_t warps = int64_t{runs} * ((int64_t{1} << trellis_.state_bits) / kManyStates / 32);
    return warps < kBusyWarps * processors_ ? kFewStates : kManyStates;
  }

  void collect(std::vector<RoundedMatrix>& out) {
    out.resize(places_.size());
    sum_rows(out, &RoundedMatrix::plain, false);
    sum_rows(out, &RoundedMatrix::under_hessian, true);
    sum_costs(out);
    for (size_t i = 0; i < places_.size(); ++i) pack(i, out[i]);
  }

  void sum_rows(std::vector<RoundedMatrix>& out, RowSums RoundedMatrix::*to, bool under_hessian) {
    const auto sum = [&](const float* a, const float* b, std::vector<double> RowSums::*part) {
      const std::vector<double> sums = products(a, b, nullptr);
      for (size_t i = 0; i < places_.size(); ++i)
        (out[i].*to.*part).assign(sums.begin() + places_[i].begin, sums.begin() + places_[i].begin + places_[i].rows);
    };
    const float* value = value_.get();
    const float* weight = weight_.get();
    if (under_hessian) multiply_hessians(value_.get()), value = error_.get();
    sum(weight_.get(), value, &RowSums::cross);
    sum(value_.get(), value, &RowSums::norm);
    if (under_hessian) multiply_hessians(weight_.get()), weight = error_.get();
    sum(weight_.get(), weight, &RowSums::own);
    // Of the code so far; q is s times it.
    for (size_t i = 0; i < places_.size(); ++i) {
      RowSums& sums = out[i].*to;
      for (int64_t r = 0; r < places_[i].rows; ++r) {
        const double scale = batch_.matrices[i].scale[r];
        sums.cross[static_cast<size_t>(r)] *= scale, sums.norm[static_cast<size_t>(r)] *= scale * scale;
      }
    }
  }

  void sum_costs(std::vector<RoundedMatrix>& out) {
    for (size_t i = 0; i < places_.size(); ++i) {
      if (!batch_.matrices[i].column_cost) continue;
      const Array<double> cost(batch_.matrices[i].column_cost, static_cast<size_t>(columns_));
      const std::vector<double> sums = products(value_.get(), value_.get(), cost.get());
      out[i].cost.assign(sums.begin() + places_[i].begin, sums.begin() + places_[i].begin + places_[i].rows);
      for (int64_t r = 0; r < places_[i].rows; ++r) {
        const double scale = batch_.matrices[i].scale[r];
        out[i].cost[static_cast<size_t>(r)] *= scale * scale;
      }
    }
  }

  std::vector<double> products(const float* a, const float* b, const double* cost) {
    const auto rows = static_cast<size_t>(rows_);
    const Array<double> sums(rows);
    row_products<<<blocks_for(rows_), kThreads>>>(a, b, cost, rows_, columns_, sums.get());
    check(cudaDeviceSynchronize(), "sums");
    std::vector<double> host(rows);
    sums.download(host.data(), rows);
    return host;
  }

  // error_[C, rows] = H · in[C, rows], matrix by matrix: the errors themselves are no longer needed.
  void multiply_hessians(const float* in) {
    const float one = 1.0f, zero = 0.0f;
    for (size_t i = 0; i < places_.size(); ++i) {
      const Place& place = places_[i];
      if (!batch_.matrices[i].hessian) {
        check(
            cudaMemcpy2DAsync(error_.get() + place.begin, static_cast<size_t>(rows_) * 4, in + place.begin, static_cast<size_t>(rows_) * 4,
                              static_cast<size_t>(place.rows) * 4, static_cast<size_t>(columns_), cudaMemcpyDeviceToDevice),
            "copy");
        continue;
      }
      check(cublasSgemm(blas_, CUBLAS_OP_N, CUBLAS_OP_N, static_cast<int>(place.rows), static_cast<int>(columns_),
                        static_cast<int>(columns_), &one, in + place.begin, static_cast<int>(rows_), square(batch_.matrices[i].hessian),
                        static_cast<int>(columns_), &zero, error_.get() + place.begin, static_cast<int>(rows_)),
            "Hessian");
    }
  }

  void pack(size_t i, RoundedMatrix& out) {
    const RoundMatrix& matrix = batch_.matrices[i];
    std::vector<int32_t> row_of;
    std::vector<uint8_t> bit_of;
    for (int64_t r = 0; r < matrix.rows; ++r)
      for (int bit = matrix.rate[r] - 1; bit >= 0; --bit)
        row_of.push_back(static_cast<int32_t>(r)), bit_of.push_back(static_cast<uint8_t>(bit));
    const auto plane_rows = static_cast<int64_t>(row_of.size()), padded = (plane_rows + 127) / 128 * 128;
    const int64_t bytes = padded / 128 * ((columns_ + 3) / 4) * 64;
    const Array<int32_t> rows(row_of);
    const Array<uint8_t> bits(bit_of), packed(static_cast<size_t>(bytes));
    pack_planes<<<blocks_for(bytes), kThreads>>>({.rows = rows_,
                                                  .columns = columns_,
                                                  .ring_begin = places_[i].begin,
                                                  .plane_rows = plane_rows,
                                                  .padded_plane_rows = padded,
                                                  .row_of = rows.get(),
                                                  .bit_of = bits.get(),
                                                  .symbols = symbols_.get(),
                                                  .packed = packed.get()});
    out.bits.resize(static_cast<size_t>(bytes));
    packed.download(out.bits.data(), out.bits.size());
  }

  const RoundBatch& batch_;
  Trellis trellis_;
  int64_t columns_, processors_, rows_ = 0;
  std::vector<Place> places_;
  std::map<const float*, Array<float>> squares_;
  Array<float> weight_, value_, error_, block_, target_, scale_, root_weight_;
  Array<uint8_t> symbols_, rate_;
  Array<uint16_t> matrix_;
  Array<int32_t> ring_begin_, ring_rows_;
  Array<float*> feedback_;
  Array<Run> stretches_, junctions_;
  Array<uint32_t> decisions_;
  unsigned stretch_count_ = 0, junction_count_ = 0;
  cublasHandle_t blas_ = nullptr;
};

}  // namespace

std::string round_on_device(const RoundBatch& batch, std::vector<RoundedMatrix>& out) {
  try {
    Rounder(batch).run(out);
  } catch (const DeviceError& error) {
    return error.text;
  }
  return {};
}

}  // namespace tq::cuda
