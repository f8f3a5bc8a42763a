// Random matrices of every codec, and products of a backend with them.
#pragma once

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "base/float16.h"
#include "base/rng.h"
#include "codec/all_ggml_types.h"
#include "codec/grid/grid.h"
#include "codec/grid/taps.h"
#include "kernels/backend.h"

namespace tq {

inline std::vector<float> gaussian(int64_t count, uint64_t seed) {
  std::vector<float> out;
  Rng rng(seed);
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<float>(rng.gaussian()));
  return out;
}

inline PackedTensor plain(int64_t rows, int64_t columns) {
  Buffer<float> values(static_cast<size_t>(rows * columns));
  const std::vector<float> random = gaussian(rows * columns, 3);
  std::copy(random.begin(), random.end(), values.begin());
  return plain_tensor({rows, columns}, std::move(values));
}

// Random bits are a valid grid matrix.
struct GridParts {
  std::vector<uint8_t> bits, rates, sign;
  std::vector<uint16_t> scale;
  std::vector<grid::Taps> taps;
};

inline PackedTensor random_grid(int64_t rows, int64_t columns, const std::vector<uint8_t>& rates) {
  auto parts = std::make_shared<GridParts>();
  parts->rates = rates;
  const grid::Layout layout(rows, columns, rates);
  Rng rng(7);
  parts->bits.resize(layout.bytes());
  for (int64_t p = 0; p < layout.plane_rows; ++p)
    for (int64_t k = 0; k < columns; ++k)
      if (rng.bits() >> 63) parts->bits[static_cast<size_t>(layout.byte_of(p, k))] |= static_cast<uint8_t>(1 << grid::Layout::bit_of(p));
  for (int64_t r = 0; r < rows; ++r) parts->scale.push_back(float_to_f16(static_cast<float>(0.5 + rng.uniform())));
  for (int64_t k = 0; k < (columns + 7) / 8; ++k) parts->sign.push_back(static_cast<uint8_t>(rng.bits()));
  PackedTensor tensor{.codec = CodecId::kGrid, .variant = 0, .shape = {rows, columns}, .parts = {}, .owner = parts};
  const auto add = [&](const std::string& name, DType dtype, size_t count, const void* data) {
    tensor.parts.push_back({name, {dtype, {static_cast<int64_t>(count)}, static_cast<const std::byte*>(data)}});
  };
  add("bits", DType::kU8, parts->bits.size(), parts->bits.data());
  add("rates", DType::kU8, parts->rates.size(), parts->rates.data());
  add("sign", DType::kU8, parts->sign.size(), parts->sign.data());
  add("row_scale", DType::kF16, parts->scale.size(), parts->scale.data());
  for (int rate = 1; rate <= 8; ++rate) {
    const grid::Taps& taps = grid::default_taps(rate, grid::windows(rate).front());
    add(grid::taps_name(rate, static_cast<int>(taps.size())), DType::kF32, taps.size(), taps.data());
  }
  EXPECT_TRUE(codec_of(CodecId::kGrid).validate(tensor, "random"));
  return tensor;
}

// Floats in a backend's memory.
class Floats {
 public:
  Floats(Backend& backend, const std::vector<float>& values)
      : backend_(backend), memory_(backend.allocate(values.size() * sizeof(float)).value()), size_(values.size()) {
    backend.upload(data(), values.data(), values.size() * sizeof(float));
  }
  float* data() { return memory_.as<float>(); }
  std::vector<float> values() {
    std::vector<float> out(size_);
    backend_.download(out.data(), data(), size_ * sizeof(float));
    return out;
  }

 private:
  Backend& backend_;
  Memory memory_;
  size_t size_;
};

inline std::vector<float> multiply(Backend& backend, const PackedTensor& tensor, int64_t tokens, Precision precision) {
  auto matrix = backend.prepare(tensor);
  EXPECT_TRUE(matrix);
  Floats input(backend, gaussian(tokens * tensor.columns(), 5)), bias(backend, gaussian(tensor.rows(), 6));
  Floats output(backend, std::vector<float>(static_cast<size_t>(tokens * tensor.rows()), NAN));
  const LinearJob job{matrix->get(), bias.data(), output.data()};
  backend.linear({.input = input.data(), .tokens = tokens, .jobs = {&job, 1}, .precision = precision});
  return output.values();
}

// Root mean square of the difference, relative to that of the expected values.
inline double relative(const std::vector<float>& got, const std::vector<float>& expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / size);
}

// Random blocks of a GGUF type; halves stay below 2, so that no value is infinite.
inline PackedTensor random_blocks(std::string_view name, int64_t rows, int64_t columns) {
  const std::vector<GgmlType> types = all_ggml_types();
  const auto type = std::find_if(types.begin(), types.end(), [&](const GgmlType& each) { return each.name == name; });
  const int64_t bytes = rows * columns / type->block_size * type->block_bytes;
  auto owner = std::make_shared<Buffer<uint8_t>>(static_cast<size_t>(bytes));
  Rng rng(11);
  for (uint8_t& byte : *owner) byte = static_cast<uint8_t>(rng.bits() >> 56);
  for (int64_t block = 0; block < bytes; block += type->block_bytes)  // every pair of bytes that may be a half
    for (int64_t i = 0; i + 2 <= type->block_bytes; i += 2)
      if (i < 4 || i + 4 >= type->block_bytes) (*owner)[static_cast<size_t>(block + i + 1)] &= 0xbf;
  PackedTensor tensor{.codec = CodecId::kGgml, .variant = type->id, .shape = {rows, columns}, .parts = {}, .owner = owner};
  tensor.parts.push_back({"blocks", {DType::kU8, {bytes}, reinterpret_cast<const std::byte*>(owner->data())}});
  EXPECT_TRUE(codec_of(CodecId::kGgml).validate(tensor, "random"));
  return tensor;
}

// Random elements of 16 bits.
inline PackedTensor random_halves(DType type, int64_t rows, int64_t columns) {
  auto owner = std::make_shared<Buffer<uint16_t>>(static_cast<size_t>(rows * columns));
  const std::vector<float> values = gaussian(rows * columns, 4);
  for (size_t i = 0; i < values.size(); ++i) (*owner)[i] = type == DType::kF16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
  return plain_tensor({type, {rows, columns}, reinterpret_cast<const std::byte*>(owner->data())}, owner);
}

}  // namespace tq
