#include "kernels/cuda/weights.h"

#include <algorithm>

#include "base/float16.h"
#include "codec/decode_matrix.h"
#include "codec/grid/grid.h"
#include "kernels/cuda/band_decode.h"
#include "kernels/cuda/training_ops.h"

namespace tq::cuda {
namespace {

// Which ranges take from which tiles.
Status find_reach(const std::vector<uint8_t>& rate, const std::vector<int32_t>& newest, Weights& weights) {
  PlaneJob& job = weights.planes;
  const int ranges = job.range_count(), tiles = job.tile_count();
  const auto begin = [&](int range) { return newest[static_cast<size_t>(range)] - job.windows[rate[static_cast<size_t>(range)]] + 1; };
  const auto end = [&](int range) {
    const int rows = std::min(kRangeRows, job.rows - range * kRangeRows);
    return newest[static_cast<size_t>(range)] + (rows - 1) * rate[static_cast<size_t>(range)] + 1;
  };
  std::vector<int32_t> reach;
  for (int tile = 0, low = 0, high = 0; tile < tiles; ++tile) {
    while (end(low) <= tile * kTileRows) ++low;
    while (high + 1 < ranges && begin(high + 1) < (tile + 1) * kTileRows) ++high;
    reach.push_back(low), reach.push_back(high);
  }
  TQ_ASSIGN(weights.reach, DeviceMemory::of(reach.data(), reach.size() * sizeof(int32_t)));
  job.reach = weights.reach.as<int32_t>();
  job.closing_tile = begin(0) < 0 ? std::max(0, job.plane_rows + begin(0)) / kTileRows : tiles;
  return {};
}

Status load_planes(const PackedTensor& tensor, int64_t expert, cudaStream_t stream, Weights& weights) {
  const grid::Matrix matrix = grid::open(tensor, expert);
  const grid::Layout& layout = matrix.layout;
  weights.is_planes = true;
  weights.groups = static_cast<int>((layout.columns + kGroupColumns - 1) / kGroupColumns);
  weights.hadamard = static_cast<int>(grid::hadamard_block(layout.columns));
  weights.wants_pairs = matrix.rate() >= kFineActivationRate;
  weights.whole_rows = static_cast<int>(matrix.all_rows());
  // Tiles before the first window are not needed.
  const auto oldest = layout.newest[0] - static_cast<int64_t>(matrix.taps[layout.rate[0]].size()) + 1;
  const int64_t skipped = std::max<int64_t>(0, oldest) / kTileRows, skipped_rows = skipped * kTileRows;
  weights.planes.rows = weights.rows, weights.planes.plane_rows = static_cast<int>(layout.plane_rows - skipped_rows);
  std::vector<uint8_t> rate;
  std::vector<int32_t> newest;
  for (int64_t r = 0; r < layout.rows; r += grid::kRateRows) {
    rate.push_back(layout.rate[static_cast<size_t>(r)]);
    newest.push_back(static_cast<int32_t>(layout.newest[static_cast<size_t>(r)] - skipped_rows));
  }
  std::vector<float> taps(kRates * kMaxTaps);
  weights.planes.takes_bands = weights.whole_rows % kBandRows == 0;
  for (const uint8_t k : rate) {  // the file may have tables of more
    std::copy(matrix.taps[k].begin(), matrix.taps[k].end(), taps.begin() + static_cast<std::ptrdiff_t>(k) * kMaxTaps);
    weights.planes.windows[k] = static_cast<int>(matrix.taps[k].size());
    weights.planes.takes_bands = weights.planes.takes_bands && are_half_taps(matrix.taps[k]);
  }
  TQ_ASSIGN(weights.rate, DeviceMemory::of(rate.data(), rate.size()));
  TQ_ASSIGN(weights.newest, DeviceMemory::of(newest.data(), newest.size() * sizeof(int32_t)));
  TQ_ASSIGN(weights.row_scale, DeviceMemory::of(matrix.row_scale, static_cast<uint64_t>(layout.rows) * sizeof(uint16_t)));
  TQ_ASSIGN(weights.taps, DeviceMemory::of(taps.data(), taps.size() * sizeof(float)));
  TQ_ASSIGN(weights.sign, DeviceMemory::of(matrix.sign, static_cast<uint64_t>(layout.columns + 7) / 8));
  TQ_ASSIGN(const DeviceMemory lines, DeviceMemory::of(matrix.bits, layout.bytes()));
  TQ_ASSIGN(weights.tiles, DeviceMemory::allocate(static_cast<uint64_t>(layout.padded_plane_rows / kTileRows) *
                                                  static_cast<uint64_t>(weights.groups) * kTileBytes));
  repack(lines.as<uint32_t>(), layout.padded_columns / grid::kLineColumns, static_cast<int>(layout.padded_plane_rows / grid::kLineRows),
         weights.groups, weights.tiles.as<uint32_t>(), stream);
  if (cudaStreamSynchronize(stream) != cudaSuccess)
    return fail(ErrorCode::kFailed, "repacking on the card failed: {}", cudaGetErrorString(cudaGetLastError()));
  weights.planes.rate = weights.rate.as<uint8_t>();
  weights.planes.newest = weights.newest.as<int32_t>();
  weights.planes.row_scale = weights.row_scale.as<uint16_t>();
  weights.planes.taps = weights.taps.as<float>();
  weights.planes.tiles = weights.tiles.as<char>() + skipped * weights.groups * kTileBytes;
  TQ_TRY(find_reach(rate, newest, weights));
  weights.least_rate = *std::min_element(rate.begin(), rate.end()), weights.most_rate = *std::max_element(rate.begin(), rate.end());
  if (weights.least_rate != weights.most_rate && has_bands(weights.planes)) {
    weights.host_band_order = bands_by_rate(rate.data(), weights.rows);
    TQ_ASSIGN(weights.band_order, DeviceMemory::of(weights.host_band_order.data(), weights.host_band_order.size() * sizeof(int32_t)));
    weights.planes.band_order = weights.band_order.as<int32_t>();
  }
  weights.host_rate = std::move(rate), weights.host_newest = std::move(newest);
  return {};
}

// Elements that lie as they are needed.
bool is_plain(const PackedTensor& tensor, DType dtype) {
  return tensor.codec == CodecId::kPlain && tensor.parts.size() == 1 && tensor.parts[0].view.dtype == dtype &&
         tensor.interleaved_head_dim == 0 && tensor.offset == 0.0f;
}

// Everything else is decoded to the type of the weights: in bands, if the codec can.
Status load_dense(const PackedTensor& tensor, int64_t expert, ThreadPool& threads, Weights& weights) {
  const int64_t rows = weights.rows, columns = weights.columns;
  const bool is_float = weights.type == DenseType::kF32;
  const uint64_t size = is_float ? sizeof(float) : sizeof(uint16_t);
  if (!is_float && is_plain(tensor, DType::kF16)) {
    const auto bytes = static_cast<uint64_t>(rows * columns) * size;
    TQ_ASSIGN(weights.values, DeviceMemory::of(tensor.parts[0].view.data + static_cast<uint64_t>(expert) * bytes, bytes));
    return {};
  }
  if (codec_of(tensor.codec).info().is_whole) {
    auto values = Buffer<float>::uninitialized(static_cast<size_t>(rows * columns));
    decode_matrix(tensor, expert, values.data(), threads);
    return load_dense(plain_tensor({rows, columns}, std::move(values)), 0, threads, weights);
  }
  TQ_ASSIGN(weights.values, DeviceMemory::allocate(static_cast<uint64_t>(rows * columns) * size));
  constexpr int64_t kBand = 2048;
  Buffer<float> band = Buffer<float>::uninitialized(static_cast<size_t>(std::min(kBand, rows) * columns));
  Buffer<uint16_t> halves = Buffer<uint16_t>::uninitialized(is_float ? 0 : band.size());
  for (int64_t first = 0; first < rows; first += kBand) {
    const int64_t count = std::min(kBand, rows - first);
    threads.run(count, 16, [&](int64_t begin, int64_t end, int) {
      decode_rows(tensor, expert * rows + first + begin, end - begin, band.data() + begin * columns);
      if (!is_float)
        for (int64_t i = begin * columns; i < end * columns; ++i)
          halves[static_cast<size_t>(i)] = float_to_f16(band[static_cast<size_t>(i)]);
    });
    const void* from = is_float ? static_cast<const void*>(band.data()) : halves.data();
    if (copy_from_host(weights.values.as<char>() + static_cast<uint64_t>(first * columns) * size, from,
                       static_cast<uint64_t>(count * columns) * size) != cudaSuccess)
      return fail(ErrorCode::kFailed, "copying to the card failed: {}", cudaGetErrorString(cudaGetLastError()));
  }
  return {};
}

// Elements of 16 bits, widened on the card.
Status load_widened(const PackedTensor& tensor, int64_t expert, cudaStream_t stream, Weights& weights) {
  const int64_t count = static_cast<int64_t>(weights.rows) * weights.columns;
  const auto bytes = static_cast<uint64_t>(count) * sizeof(uint16_t);
  TQ_ASSIGN(weights.values, DeviceMemory::allocate(2 * bytes));
  TQ_ASSIGN(const DeviceMemory stored, DeviceMemory::of(tensor.parts[0].view.data + static_cast<uint64_t>(expert) * bytes, bytes));
  if (tensor.parts[0].view.dtype == DType::kF16) widen(stored.as<void>(), weights.values.as<float>(), count, stream);
  else widen_bf16(stored.as<void>(), weights.values.as<float>(), count, stream);
  if (cudaStreamSynchronize(stream) != cudaSuccess)
    return fail(ErrorCode::kFailed, "widening on the card failed: {}", cudaGetErrorString(cudaGetLastError()));
  return {};
}

// Planes as floats in the original basis, by the way that rows of an embedding are read.
Status decode_planes(const Weights& planes, cudaStream_t stream, Weights& weights) {
  constexpr int kStretch = 1 << 15;  // rows of a launch
  TQ_ASSIGN(weights.values,
            DeviceMemory::allocate(static_cast<uint64_t>(weights.rows) * static_cast<uint64_t>(weights.columns) * sizeof(float)));
  TQ_ASSIGN(const DeviceMemory numbers, DeviceMemory::allocate(kStretch * sizeof(int32_t)));
  for (int first = 0; first < weights.rows; first += kStretch) {
    const int count = std::min(kStretch, weights.rows - first);
    DecodeArgs decode = decode_args(planes);
    decode.output = weights.values.as<float>() + static_cast<int64_t>(first) * weights.columns;
    count_up(numbers.as<int32_t>(), count, first, stream);
    embed_planes(decode, planes.sign.as<uint8_t>(), numbers.as<int32_t>(), 1.0f, count, stream);
  }
  if (cudaStreamSynchronize(stream) != cudaSuccess)
    return fail(ErrorCode::kFailed, "decoding on the card failed: {}", cudaGetErrorString(cudaGetLastError()));
  return {};
}

// Without what belongs to the kind of weights.
Result<std::shared_ptr<Weights>> weights_of_shape(const PackedTensor& tensor) {
  const size_t dims = tensor.shape.size();
  if (dims != 2 && dims != 3) return bad_input("a matrix was expected, the tensor's shape is {}", shape_text(tensor.shape));
  auto weights = std::make_shared<Weights>();
  weights->rows = static_cast<int>(tensor.shape[dims - 2]);
  weights->columns = static_cast<int>(tensor.columns());
  return weights;
}

}  // namespace

DecodeArgs decode_args(const Weights& weights) {
  DecodeArgs args;
  args.job = weights.planes;
  args.tiles = static_cast<const uint32_t*>(weights.planes.tiles), args.groups = weights.groups, args.columns = weights.columns,
  args.hadamard = weights.hadamard;
  args.count = weights.rows;
  return args;
}

Result<std::shared_ptr<Weights>> load_floats(const PackedTensor& tensor, int64_t expert, ThreadPool& threads, cudaStream_t stream) {
  TQ_ASSIGN(auto weights, weights_of_shape(tensor));
  weights->type = DenseType::kF32;
  weights->is_trainable = true;
  if (tensor.codec == CodecId::kGrid) {
    TQ_ASSIGN(const auto planes, load_weights(tensor, expert, threads, stream));
    TQ_TRY(decode_planes(*planes, stream, *weights));
  } else if (is_plain(tensor, DType::kF16) || is_plain(tensor, DType::kBF16)) {
    TQ_TRY(load_widened(tensor, expert, stream, *weights));
  } else {
    TQ_TRY(load_dense(tensor, expert, threads, *weights));
  }
  return weights;
}

Result<std::shared_ptr<Weights>> load_weights(const PackedTensor& tensor, int64_t expert, ThreadPool& threads, cudaStream_t stream) {
  TQ_ASSIGN(auto weights, weights_of_shape(tensor));
  const bool is_float = tensor.codec == CodecId::kPlain && tensor.parts[0].view.dtype == DType::kF32;
  weights->type = is_float ? DenseType::kF32 : DenseType::kF16;
  if (tensor.codec == CodecId::kGrid) {
    TQ_TRY(load_planes(tensor, expert, stream, *weights));
  } else {
    TQ_TRY(load_dense(tensor, expert, threads, *weights));
  }
  return weights;
}

std::string CudaMatrix::kernel(int64_t tokens) const {
  if (weights->is_planes) {
    if (tokens > steps.decoded) return "cuda planes decoded to half, cuBLAS";
    if (tokens > steps.few && tokens > steps.bytes && tokens <= steps.bands) return "cuda planes decoded in registers";
    const bool is_bytes = tokens > steps.few && tokens <= steps.bytes;
    const bool is_fine = weights->wants_pairs || tokens <= 4 || (is_bytes && tokens <= kFineTokens);
    return fmt::format("cuda planes, {} activations", is_fine ? "15-bit" : is_bytes ? "int8" : "10-bit");
  }
  const char* type = weights->type == DenseType::kF16 ? "half" : "float";
  return fmt::format("{} {}", tokens <= kMaxDenseTokens ? "cuda" : "cuBLAS", type);
}

}  // namespace tq::cuda
