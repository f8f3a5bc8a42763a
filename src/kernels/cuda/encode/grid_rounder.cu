#include "kernels/cuda/encode/grid_rounder.h"

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "kernels/cuda/encode/column.cuh"
#include "kernels/cuda/encode/trellis_tables.h"
#include "kernels/cuda/encode/viterbi.cuh"
#include "kernels/cuda/objective_ops.h"

namespace tq::cuda {
namespace {

constexpr int64_t kBlockColumns = 128;  // columns whose feedback from before is summed at once
constexpr int kJunctionRows = 48;       // searched again on each side of a junction
constexpr int kOverlapRows = 24;        // beyond a stretch, so that its ends are as good as its middle
constexpr int64_t kMostStretch = kMostSteps - 2 * kOverlapRows - 64;
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

// The trellis of a batch on the device.
struct Trellis {
  int state_bits = 0;
  bool is_wide = false;
  float clamp = 0.0f;
  Array<float> newer, older, taps;
  Array<int32_t> window, merged;
  std::vector<int32_t> merged_bits;  // TrellisTables::merged
  TrellisTables tables{};

  explicit Trellis(const HostTrellis& host)
      : state_bits(host.state_bits), is_wide(host.is_wide), clamp(host.clamp), merged_bits(host.merged) {
    if (!host.error.empty()) throw DeviceError{host.error};
    newer = Array<float>(host.newer), older = Array<float>(host.older), taps = Array<float>(host.taps);
    window = Array<int32_t>(host.window), merged = Array<int32_t>(host.merged);
    tables = {newer.get(), older.get(), taps.get(), window.get(), merged.get()};
  }
};

// Rows of the shortest stretch, given the state bits: by the loss against long ones, which is below 0.01 dB (lab/cuda-encoder).
constexpr int64_t least_stretch(int state_bits) { return state_bits <= 6 ? 64 : state_bits <= 8 ? 96 : 2 * kJunctionRows + 32; }

// Stretches of the rings, and their junctions.
struct Runs {
  int64_t stretch_rows, least;  // of a stretch
  std::vector<Run> stretches = {}, junctions = {};

  int64_t stretches_of(int64_t rows) const {
    return std::min((rows + stretch_rows - 1) / stretch_rows, std::max<int64_t>(1, rows / least));
  }
  static int64_t margin_of(int64_t rows) { return std::min<int64_t>(kJunctionRows, (rows - 8) / 2); }  // rows: of a stretch
  void add(int32_t ring_begin, int32_t ring_rows) {
    const auto count = static_cast<int32_t>(stretches_of(ring_rows));
    const auto margin = static_cast<int32_t>(margin_of(ring_rows / count));
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
  Rounder(const RoundBatch& batch, RowStaging& staging)
      : batch_(batch), staging_(staging), trellis_(HostTrellis(batch)), columns_(batch.columns), processors_(count_processors()) {
    check(cublasCreate(&blas_), "cuBLAS");
    // Products of errors and codes with factors of 11 bits: what is fed back, and what scales are refitted with, is many times coarser.
    check(cublasSetMathMode(blas_, CUBLAS_TF32_TENSOR_OP_MATH), "cuBLAS");
    allow_buffers();
    stack_rows();
    make_runs();
    load_weights();
    load_scales();
    load_objectives();
  }
  ~Rounder() { cublasDestroy(blas_); }
  Rounder(const Rounder&) = delete;

  void run(std::vector<RoundedMatrix>& out) {
    for (int64_t first = 0; first < columns_; first += kBlockColumns) {
      const int64_t last = std::min(columns_, first + kBlockColumns);
      start_block(first, last);
      for (int64_t k = first; k < last; ++k) round_column(k, first, last);
    }
    check(cudaDeviceSynchronize(), "rounding");
    collect(out);
  }

 private:
  struct Place {
    int64_t begin, rows;              // in the stack
    const float* feedback = nullptr;  // on the device
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
    std::vector<int32_t> ring_begin, ring_rows;
    for (const RoundMatrix& each : batch_.matrices) {
      if (each.rows < kLeastDeviceRows) throw DeviceError{"a matrix of fewer than 64 rows"};
      places_.push_back({.begin = rows_, .rows = each.rows});
      ring_begin.push_back(static_cast<int32_t>(rows_)), ring_rows.push_back(static_cast<int32_t>(each.rows));
      rows_ += each.rows;
      rate.insert(rate.end(), each.rate, each.rate + each.rows);
      for (int64_t r = 0; r < each.rows; ++r) ++rows_of_rate_[each.rate[r]];
      matrix.insert(matrix.end(), static_cast<size_t>(each.rows), static_cast<uint16_t>(places_.size() - 1));
    }
    rate_ = Array<uint8_t>(rate), matrix_ = Array<uint16_t>(matrix);
    ring_begin_ = Array<int32_t>(ring_begin), ring_rows_ = Array<int32_t>(ring_rows);
  }

  // Rows of a stretch: what takes the least time, given how many runs then stand side by side.
  int64_t choose_stretch() const {
    constexpr double kTraceCycles = 50;  // of a row on the way back, by one thread
    int64_t best = 0;
    double least = 0;
    const int64_t shortest = least_stretch(trellis_.state_bits);
    for (int64_t stretch = shortest; stretch <= kMostStretch; stretch += 16) {
      const Runs runs{stretch, shortest};
      int64_t count = 0;
      for (const Place& place : places_) count += runs.stretches_of(place.rows);
      const auto steps = static_cast<double>(stretch + 2 * kOverlapRows + 2 * Runs::margin_of(stretch));
      const double cycles = steps * (row_cycles(count) + kTraceCycles);
      if (best == 0 || cycles < least) best = stretch, least = cycles;
    }
    return best;
  }

  // About the cycles in which so many runs side by side take a row on their way forward: what one alone waits for, or what the
  // instructions of those that share a multiprocessor take.
  double row_cycles(int64_t runs) const {
    constexpr double kBarrierCycles = 100, kCyclesOfInstruction = 1.5, kSchedulers = 4;
    const int own = states_of_thread(own_states(runs));
    const double warps = static_cast<double>(int64_t{1} << trellis_.state_bits) / own / 32, instructions = row_instructions(own);
    const auto side_by_side = static_cast<double>((runs + processors_ - 1) / processors_);
    return std::max(kBarrierCycles + kCyclesOfInstruction * instructions, side_by_side * warps * instructions / kSchedulers);
  }

  // Of a thread, the mean over the rows' rates (trellis_step.h).
  double row_instructions(int own) const {
    double sum = 0;
    for (int rate = 2; rate < kTrellisRates; ++rate) {
      const int merged = trellis_.merged_bits[static_cast<size_t>(rate)];
      const double merging = merged > 0 ? 3 * std::max(own, 1 << merged) + 5 * own : 0;
      sum += static_cast<double>(rows_of_rate_[rate]) * (45 + 7 * own + merging + (1 << (rate - merged)) * (2 + 4 * own));
    }
    return sum / static_cast<double>(rows_);
  }

  int states_of_thread(int own) const {
    int states = own;
    with_kernel(own, [&]<typename V>(auto) { states = V::kStates / V::kThreads; });
    return states;
  }

  // Calls `use` with the kernel of the trellis. own: states of a thread.
  template <typename Use>
  void with_kernel(int own, const Use& use) const {
    switch (trellis_.state_bits) {
      case 6: return with_states<6>(own, use);
      case 8: return with_states<8>(own, use);
      case 9: return with_states<9>(own, use);
      case 10: return with_states<10>(own, use);
      default: return with_states<12>(own, use);
    }
  }
  template <int kStateBits, typename Use>
  void with_states(int own, const Use& use) const {
    constexpr int kLeast = kStateBits == 12 ? 2 * kFewStates : kFewStates;  // a thread block has up to 1024 threads
    constexpr int kMost = kStateBits < 8 ? kFewStates : kManyStates;        // and at least 32
    if (own == kManyStates) with_width<kStateBits, kMost>(use);
    else with_width<kStateBits, kLeast>(use);
  }
  template <int kStateBits, int kOwn, typename Use>
  void with_width(const Use& use) const {
    if (trellis_.is_wide) use.template operator()<Viterbi<kStateBits, kOwn, true>>(&viterbi<kStateBits, kOwn, true>);
    else use.template operator()<Viterbi<kStateBits, kOwn, false>>(&viterbi<kStateBits, kOwn, false>);
  }

  void make_runs() {
    Runs runs{batch_.stretch_rows > 0 ? batch_.stretch_rows : choose_stretch(), least_stretch(trellis_.state_bits)};
    for (const Place& place : places_) runs.add(static_cast<int32_t>(place.begin), static_cast<int32_t>(place.rows));
    for (const Run& run : runs.stretches)
      if (run.steps > kMostSteps) throw DeviceError{"a stretch of too many rows"};
    stretch_count_ = static_cast<unsigned>(runs.stretches.size()), junction_count_ = static_cast<unsigned>(runs.junctions.size());
    stretches_ = Array<Run>(runs.stretches), junctions_ = Array<Run>(runs.junctions);
    const size_t words = (size_t{1} << trellis_.state_bits) / (trellis_.is_wide ? 4 : 8);
    decisions_ = Array<uint32_t>(runs.stretches.size() * kMostSteps * words);
  }

  // Column by column, in the rotated basis.
  void load_weights() {
    weight_ = Array<float>(area());
    for (size_t i = 0; i < places_.size(); ++i) {
      const RoundMatrix& each = batch_.matrices[i];
      const Rotation rotation = Rotation::of(on_device(signs_, each.sign, static_cast<size_t>(columns_ + 7) / 8), columns_);
      float* to = weight_.get() + places_[i].begin;
      if (each.same_as >= 0) {
        copy_rows(weight_.get() + places_[static_cast<size_t>(each.same_as)].begin, to, each.rows);
      } else if (each.stored) {
        rotate_to_columns(rotation, each.stored, each.rows, to, rows_, cudaStreamLegacy);
      } else {
        const auto use = [&](const float* rows, int64_t first, int64_t count) {
          rotate_to_columns(rotation, rows, count, to + first, rows_, cudaStreamLegacy);
        };
        check(staging_.run(each.rows, columns_, each.read, use), "copy to the device");
      }
    }
  }

  // Rows of the stack, in all columns.
  void copy_rows(const float* from, float* to, int64_t rows) const {
    const size_t pitch = static_cast<size_t>(rows_) * sizeof(float);
    check(cudaMemcpy2DAsync(to, pitch, from, pitch, static_cast<size_t>(rows) * sizeof(float), static_cast<size_t>(columns_),
                            cudaMemcpyDeviceToDevice),
          "copy");
  }

  void load_scales() {
    const auto rows = static_cast<size_t>(rows_);
    scale_ = Array<float>(rows), host_scale_.resize(rows);
    row_scales(weight_.get(), rows_, columns_, rows_, scale_.get(), cudaStreamLegacy);
    scale_.download(host_scale_.data(), rows);
    std::vector<float> root_weight(rows);
    for (const Place& place : places_) {
      const float* scale = host_scale_.data() + place.begin;
      const float largest = *std::max_element(scale, scale + place.rows);
      for (int64_t r = 0; r < place.rows; ++r)
        root_weight[static_cast<size_t>(place.begin + r)] = scale[r] > 0 ? scale[r] / largest : -1.0f;
    }
    root_weight_ = Array<float>(root_weight);
  }

  void load_objectives() {
    value_ = Array<float>(area()), error_ = Array<float>(area()), symbols_ = Array<uint8_t>(area());
    block_ = Array<float>(static_cast<size_t>(kBlockColumns * rows_)), target_ = Array<float>(static_cast<size_t>(rows_));
    row_error_ = Array<double>(static_cast<size_t>(rows_));
    check(cudaMemsetAsync(row_error_.get(), 0, static_cast<size_t>(rows_) * sizeof(double)), "zeroing");
    std::vector<const float*> feedback;
    std::vector<const double*> diagonal;
    for (size_t i = 0; i < places_.size(); ++i) {
      const RoundMatrix& each = batch_.matrices[i];
      places_[i].feedback = square(each, each.feedback);
      feedback.push_back(places_[i].feedback);
      diagonal.push_back(each.feedback ? on_device(diagonals_, each.diagonal, static_cast<size_t>(columns_)) : nullptr);
    }
    feedback_ = Array<const float*>(feedback), diagonal_ = Array<const double*>(diagonal);
  }

  // An array of the host on the device, once for all who share it.
  template <typename T>
  static const T* on_device(std::map<const T*, Array<T>>& known, const T* host, size_t count) {
    auto found = known.find(host);
    if (found == known.end()) found = known.emplace(host, Array<T>(host, count)).first;
    return found->second.get();
  }
  // A [C, C] matrix of an objective on the device.
  const float* square(const RoundMatrix& matrix, const float* values) {
    if (!values || matrix.is_resident) return values;
    return on_device(squares_, values, static_cast<size_t>(columns_ * columns_));
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

  void round_column(int64_t k, int64_t first, int64_t last) {
    const ColumnArgs args{.rows = rows_,
                          .columns = columns_,
                          .column = k,
                          .block_begin = first,
                          .wanted = block_.get(),
                          .weight = weight_.get(),
                          .scale = scale_.get(),
                          .clamp = trellis_.clamp,
                          .feedback = feedback_.get(),
                          .diagonal = diagonal_.get(),
                          .matrix = matrix_.get(),
                          .ring_begin = ring_begin_.get(),
                          .ring_rows = ring_rows_.get(),
                          .rate = rate_.get(),
                          .tables = trellis_.tables,
                          .target = target_.get(),
                          .symbols = symbols_.get(),
                          .value = value_.get(),
                          .error = error_.get(),
                          .row_error = row_error_.get()};
    if (k == first) column_target<<<blocks_for(rows_), kThreads>>>(args);
    search(k, stretches_.get(), stretch_count_, false);
    search(k, junctions_.get(), junction_count_, true);
    column_value<<<blocks_for(rows_), kThreads>>>(args, k + 1 == last);
    check(cudaGetLastError(), "a kernel");
  }

  void search(int64_t k, const Run* runs, unsigned count, bool fixed_ends) {
    const ViterbiArgs args{
        runs, target_.get(), root_weight_.get(), rate_.get(), trellis_.tables, symbols_.get() + k * rows_, decisions_.get(), fixed_ends};
    with_kernel(own_states(count), [&]<typename V>(auto kernel) { kernel<<<count, V::kThreads, V::kBufferWords * sizeof(float)>>>(args); });
  }
  // Longer windows share more memory than a kernel has by itself.
  void allow_buffers() const {
    for (const int own : {kManyStates, kFewStates})
      with_kernel(own, [&]<typename V>(auto kernel) {
        constexpr int kBytes = V::kBufferWords * static_cast<int>(sizeof(float));
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), "shared memory");
      });
  }
  // Of a thread. The order of what is compared is the same, and so are the bytes.
  int own_states(unsigned runs) const {
    const int64_t warps = int64_t{runs} * ((int64_t{1} << trellis_.state_bits) / kManyStates / 32);
    return warps < kBusyWarps * processors_ ? kFewStates : kManyStates;
  }

  void collect(std::vector<RoundedMatrix>& out) {
    out.resize(places_.size());
    for (size_t i = 0; i < places_.size(); ++i) out[i].scale = of_place(host_scale_, i);
    sum_rows(out, &RoundedMatrix::plain, value_.get());
    const std::vector<double> energy = products(weight_.get(), weight_.get(), nullptr);
    for (size_t i = 0; i < places_.size(); ++i) out[i].plain.own = of_place(energy, i);
    multiply_hessians();
    sum_rows(out, &RoundedMatrix::under_hessian, error_.get());
    complete_energies(out);
    sum_costs(out);
    for (size_t i = 0; i < places_.size(); ++i) pack(i, out[i]);
  }

  template <typename T>
  std::vector<T> of_place(const std::vector<T>& rows, size_t i) const {
    const auto begin = rows.begin() + places_[i].begin;
    return {begin, begin + places_[i].rows};
  }
  double scale_of(size_t i, size_t row) const { return host_scale_[static_cast<size_t>(places_[i].begin) + row]; }

  // w H q and q H q; image: H times the code.
  void sum_rows(std::vector<RoundedMatrix>& out, RowSums RoundedMatrix::*to, const float* image) {
    const std::vector<double> cross = products(weight_.get(), image, nullptr), norm = products(value_.get(), image, nullptr);
    for (size_t i = 0; i < places_.size(); ++i) {
      RowSums& sums = out[i].*to;
      sums.cross = of_place(cross, i), sums.norm = of_place(norm, i);
      for (size_t r = 0; r < sums.cross.size(); ++r) sums.cross[r] *= scale_of(i, r), sums.norm[r] *= scale_of(i, r) * scale_of(i, r);
    }
  }

  // w H w = e H e + 2 w H q - q H q, e H e from what every column's target was missed by.
  void complete_energies(std::vector<RoundedMatrix>& out) const {
    std::vector<double> error(static_cast<size_t>(rows_));
    row_error_.download(error.data(), error.size());
    for (size_t i = 0; i < places_.size(); ++i) {
      RowSums& sums = out[i].under_hessian;
      sums.own = of_place(error, i);
      for (size_t r = 0; r < sums.own.size(); ++r) sums.own[r] += 2 * sums.cross[r] - sums.norm[r];
    }
  }

  // Matrices of one input have the same costs.
  void sum_costs(std::vector<RoundedMatrix>& out) {
    std::map<const double*, std::vector<double>> known;
    for (size_t i = 0; i < places_.size(); ++i) {
      const double* column_cost = batch_.matrices[i].column_cost;
      if (!column_cost) continue;
      std::vector<double>& sums = known[column_cost];
      if (sums.empty()) {
        const Array<double> cost(column_cost, static_cast<size_t>(columns_));
        sums = products(value_.get(), value_.get(), cost.get());
      }
      out[i].cost = of_place(sums, i);
      for (size_t r = 0; r < out[i].cost.size(); ++r) out[i].cost[r] *= scale_of(i, r) * scale_of(i, r);
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

  // error_[C, rows] = H · value_[C, rows], matrix by matrix: the errors themselves are no longer needed.
  void multiply_hessians() {
    const float one = 1.0f, zero = 0.0f;
    for (size_t i = 0; i < places_.size(); ++i) {
      const Place& place = places_[i];
      const RoundMatrix& matrix = batch_.matrices[i];
      if (!matrix.hessian) {
        copy_rows(value_.get() + place.begin, error_.get() + place.begin, place.rows);
        continue;
      }
      check(
          cublasSgemm(blas_, CUBLAS_OP_N, CUBLAS_OP_N, static_cast<int>(place.rows), static_cast<int>(columns_), static_cast<int>(columns_),
                      &one, value_.get() + place.begin, static_cast<int>(rows_), square(matrix, matrix.hessian), static_cast<int>(columns_),
                      &zero, error_.get() + place.begin, static_cast<int>(rows_)),
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
  RowStaging& staging_;
  Trellis trellis_;
  int64_t columns_, processors_, rows_ = 0;
  int64_t rows_of_rate_[kTrellisRates] = {};
  std::vector<Place> places_;
  std::vector<float> host_scale_;
  std::map<const float*, Array<float>> squares_;
  std::map<const double*, Array<double>> diagonals_;
  std::map<const uint8_t*, Array<uint8_t>> signs_;
  Array<float> weight_, value_, error_, block_, target_, scale_, root_weight_;
  Array<double> row_error_;
  Array<uint8_t> symbols_, rate_;
  Array<uint16_t> matrix_;
  Array<int32_t> ring_begin_, ring_rows_;
  Array<const float*> feedback_;
  Array<const double*> diagonal_;
  Array<Run> stretches_, junctions_;
  Array<uint32_t> decisions_;
  unsigned stretch_count_ = 0, junction_count_ = 0;
  cublasHandle_t blas_ = nullptr;
};

}  // namespace

std::string round_on_device(const RoundBatch& batch, RowStaging& staging, std::vector<RoundedMatrix>& out) {
  try {
    Rounder(batch, staging).run(out);
  } catch (const DeviceError& error) {
    return error.text;
  }
  return {};
}

}  // namespace tq::cuda
