#include "kernels/cuda/encode/grid_rounder.h"

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/cuda/encode/column.cuh"
#include "kernels/cuda/encode/device_array.h"
#include "kernels/cuda/encode/device_trellis.h"
#include "kernels/cuda/encode/stretches.h"
#include "kernels/cuda/encode/viterbi.cuh"
#include "kernels/cuda/objective_ops.h"

namespace tq::cuda {
namespace {

constexpr int64_t kBlockColumns = 128;  // columns whose feedback from before is summed at once
constexpr int kThreads = 256;

unsigned blocks_for(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

class Rounder {
 public:
  Rounder(const RoundBatch& batch, RowStaging& staging)
      : batch_(batch),
        staging_(staging),
        trellis_(HostTrellis(batch)),
        cost_{trellis_.state_bits, count_processors(), trellis_.merged_bits},
        columns_(batch.columns) {
    allow_buffers();
    stack_rows();
    make_runs();
    load_weights();
    load_scales();
    load_objectives();
  }
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
      for (int64_t r = 0; r < each.rows; ++r) ++cost_.rows_of_rate[each.rate[r]];
      matrix.insert(matrix.end(), static_cast<size_t>(each.rows), static_cast<uint16_t>(places_.size() - 1));
    }
    rate_ = Array<uint8_t>(rate), matrix_ = Array<uint16_t>(matrix);
    ring_begin_ = Array<int32_t>(ring_begin), ring_rows_ = Array<int32_t>(ring_rows);
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
    if (own == kManyStates) with_width<kStateBits, states_of_thread(kStateBits, kManyStates)>(use);
    else with_width<kStateBits, states_of_thread(kStateBits, kFewStates)>(use);
  }
  template <int kStateBits, int kOwn, typename Use>
  void with_width(const Use& use) const {
    if (trellis_.is_wide) use.template operator()<Viterbi<kStateBits, kOwn, true>>(&viterbi<kStateBits, kOwn, true>);
    else use.template operator()<Viterbi<kStateBits, kOwn, false>>(&viterbi<kStateBits, kOwn, false>);
  }

  void make_runs() {
    std::vector<int64_t> rows;
    for (const Place& place : places_) rows.push_back(place.rows);
    Runs runs{batch_.stretch_rows > 0 ? batch_.stretch_rows : cost_.choose_stretch(rows), least_stretch(cost_.state_bits)};
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
      check(cublasSgemm(blas_.get(), CUBLAS_OP_N, CUBLAS_OP_T, static_cast<int>(place.rows), static_cast<int>(width),
                        static_cast<int>(first), &one, error_.get() + place.begin, static_cast<int>(rows_), place.feedback + first,
                        static_cast<int>(columns_), &one, block_.get() + place.begin, static_cast<int>(rows_)),
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
    with_kernel(cost_.own_states(count),
                [&]<typename V>(auto kernel) { kernel<<<count, V::kThreads, V::kBufferWords * sizeof(float)>>>(args); });
  }
  // Longer windows share more memory than a kernel has by itself.
  void allow_buffers() const {
    for (const int own : {kManyStates, kFewStates})
      with_kernel(own, [&]<typename V>(auto kernel) {
        constexpr int kBytes = V::kBufferWords * static_cast<int>(sizeof(float));
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), "shared memory");
      });
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
          cublasSgemm(blas_.get(), CUBLAS_OP_N, CUBLAS_OP_N, static_cast<int>(place.rows), static_cast<int>(columns_),
                      static_cast<int>(columns_), &one, value_.get() + place.begin, static_cast<int>(rows_), square(matrix, matrix.hessian),
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
  RowStaging& staging_;
  Blas blas_;
  Trellis trellis_;
  SearchCost cost_;
  int64_t columns_, rows_ = 0;
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
