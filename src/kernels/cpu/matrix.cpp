#include "kernels/cpu/matrix.h"

#include "codec/decode_matrix.h"
#include "codec/interleaved_rows.h"
#include "kernels/cpu/digits/digit_kernels.h"
#include "kernels/cpu/tile/tile_linear.h"
#include "tensor/ggml_types.h"

namespace tq::cpu {

namespace {

// A codec whose rows cannot be decoded alone is decoded once.
PackedTensor by_rows(const PackedTensor& tensor, int64_t expert) {
  if (!codec_of(tensor.codec).info().is_whole) return tensor;
  const int64_t rows = tensor.shape[tensor.shape.size() - 2], columns = tensor.columns();
  auto values = Buffer<float>::uninitialized(static_cast<size_t>(rows * columns));
  decode_rows(tensor, expert * rows, rows, values.data());
  return plain_tensor({rows, columns}, std::move(values));
}

}  // namespace

CpuMatrix::CpuMatrix(const PackedTensor& tensor, int64_t expert, Isa isa)
    : Matrix(tensor.shape[tensor.shape.size() - 2], tensor.columns()),
      tensor_(by_rows(tensor, expert)),
      first_row_(tensor_.codec == tensor.codec ? expert * rows() : 0),
      isa_(isa) {
  if (tensor.codec == CodecId::kGrid) planes_.emplace(grid::open(tensor_, expert));
  else stored_ = row_matrix(tensor_, first_row_ / rows());
}

CpuMatrix::CpuMatrix(Floats floats, Isa isa)
    : Matrix(floats.rows, floats.columns),
      tensor_(plain_tensor({floats.rows, floats.columns}, std::move(floats.values))),
      first_row_(0),
      isa_(isa),
      floats_(const_cast<float*>(tensor_.parts[0].view.as<float>())),  // the tensor's memory is its own
      stored_(row_matrix(tensor_, 0)) {}

std::string CpuMatrix::kernel(int64_t tokens) const {
  if (planes_) {
    const char* bits = planes_->wants_high_precision() ? ", 15 bits" : ", 8 bits";
    if (tokens <= kPlaneTokens) return std::string(product_kernel_name(isa_)) + bits;
    const TileKernels& tiles = tile_kernels(isa_);
    return std::string(tiles.name[planes_->wants_high_precision() ? 1 : 0]) + bits;
  }
  if (stored_ && tokens <= kRowTokens)
    return fmt::format("rows {} {}{}", stored_->name(), isa_name(isa_), is_blocks(stored_->format) ? ", 16 bits" : "");
  return fmt::format("decoded bands, {} {}", digit_kernels(isa_) ? "3 digits" : "f32", isa_name(isa_));
}

uint64_t CpuMatrix::bytes() const {
  if (planes_) return planes_->bytes();
  return tensor_.bytes() / static_cast<uint64_t>(tensor_.rows() / rows());
}

void CpuMatrix::decode(int64_t begin, int64_t count, float* out) const {
  if (!stored_) return decode_rows(tensor_, first_row_ + begin, count, out);
  const RowKernels& kernels = row_kernels(isa_);
  for (int64_t i = 0; i < count; ++i, out += columns())
    kernels.decode(stored_->format, stored_->data + stored_row(begin + i, stored_->interleaved_head_dim) * stored_->row_bytes, columns(),
                   out);
}

void CpuMatrix::decode_rotated(int64_t begin, int64_t count, float* out) const {
  grid::decode_rotated(planes_->matrix(), begin, count, out);
}

CpuMatrix::Floats decoded_floats(const PackedTensor& tensor, int64_t expert, ThreadPool& threads) {
  const int64_t rows = tensor.shape[tensor.shape.size() - 2], columns = tensor.columns();
  CpuMatrix::Floats out{rows, columns, Buffer<float>::uninitialized(static_cast<size_t>(rows * columns))};
  decode_matrix(tensor, expert, out.values.data(), threads);
  return out;
}

}  // namespace tq::cpu
