// Weights on the device: bit planes in tile order, or 16- and 32-bit floats.
#pragma once

#include <vector>

#include "codec/codec.h"
#include "kernels/backend.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/ops.h"
#include "kernels/plane_sizes.h"

namespace tq::cuda {

struct Weights {
  int rows = 0, columns = 0;
  bool is_planes = false;
  bool wants_pairs = false;  // planes of so many bits that int8 activations would cost more than the rounding of the weights
  // Planes.
  DeviceMemory tiles, rate, newest, reach, row_scale, taps, sign, band_order;
  int groups = 0, hadamard = 0;
  std::vector<uint8_t> host_rate;
  int least_rate = 0, most_rate = 0;
  std::vector<int32_t> host_newest, host_band_order;
  PlaneJob planes;     // all but bias, output and its place in a launch
  int whole_rows = 0;  // of the matrix that it is a part of
  // Floats.
  DeviceMemory values;
  DenseType type = DenseType::kF16;
  bool is_trainable = false;  // floats of its own, that may be changed

  RowShape row_shape() const {
    return {planes.rows,
            planes.plane_rows,
            host_rate.data(),
            host_newest.data(),
            planes.windows,
            whole_rows,
            host_band_order.empty() ? nullptr : host_band_order.data()};
  }
  uint64_t bytes() const { return is_planes ? tiles.bytes() + row_scale.bytes() : values.bytes(); }
};

// Errors: a tensor that is no matrix; kNoResource.
Result<std::shared_ptr<Weights>> load_weights(const PackedTensor& tensor, int64_t expert, ThreadPool& threads, cudaStream_t stream);
// The same as trainable floats in the original basis.
Result<std::shared_ptr<Weights>> load_floats(const PackedTensor& tensor, int64_t expert, ThreadPool& threads, cudaStream_t stream);

// Of all rows of planes; where they go is left open.
DecodeArgs decode_args(const Weights& weights);

// Up to how many tokens planes are multiplied as bits, as bytes, with bands decoded in registers (0: never so), and before they are decoded
// to memory. Where several would do, it is the first. Of a matrix alone: the last counts the rows of all matrices of a product
// (band_tokens()).
struct PlaneSteps {
  int64_t few = 0, bytes = 0, bands = 0, decoded = 0;
};

class CudaMatrix final : public Matrix {
 public:
  explicit CudaMatrix(std::shared_ptr<const Weights> loaded) : Matrix(loaded->rows, loaded->columns), weights(std::move(loaded)) {}
  std::string kernel(int64_t tokens) const override;
  uint64_t bytes() const override { return weights->bytes(); }
  std::shared_ptr<const Weights> weights;
  PlaneSteps steps;  // of planes, as a backend multiplies them
};

}  // namespace tq::cuda
