#include "codec/codec.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "codec/interleaved_rows.h"

namespace tq {

#define TQ_CODEC(accessor) const Codec& accessor();
#include "codec/codecs.def"
#undef TQ_CODEC

const TensorView* PackedTensor::part(std::string_view name) const {
  const auto found = std::find_if(parts.begin(), parts.end(), [&](const Part& part) { return part.name == name; });
  return found == parts.end() ? nullptr : &found->view;
}

uint64_t PackedTensor::bytes() const {
  uint64_t total = 0;
  for (const Part& part : parts)
    if (part.name != "sign" && !part.name.starts_with("taps.") && !part.name.starts_with("e8p.")) total += part.view.bytes();
  return total;
}

std::span<const Codec* const> codecs() {
  static const std::array kCodecs = {
#define TQ_CODEC(accessor) &accessor(),
#include "codec/codecs.def"
#undef TQ_CODEC
  };
  return kCodecs;
}

const Codec& codec_of(CodecId id) {
  for (const Codec* codec : codecs())
    if (codec->info().id == id) return *codec;
  TQ_CHECK(!"a codec id that codecs.def lacks");
  __builtin_unreachable();
}

void decode_rows(const PackedTensor& tensor, int64_t begin, int64_t count, float* out) {
  TQ_CHECK(begin >= 0 && count >= 0 && begin + count <= tensor.rows());
  const Codec& codec = codec_of(tensor.codec);
  const int64_t columns = tensor.columns();
  if (tensor.interleaved_head_dim == 0) {
    codec.decode_rows(tensor, begin, count, out);
  } else if (tensor.shape.size() == 1) {  // a bias: its elements are permuted as a matrix's rows are
    std::vector<float> stored(static_cast<size_t>(columns));
    codec.decode_rows(tensor, 0, 1, stored.data());
    for (int64_t i = 0; i < columns; ++i) out[i] = stored[static_cast<size_t>(stored_row(i, tensor.interleaved_head_dim))];
  } else {
    for (int64_t i = 0; i < count; ++i) codec.decode_rows(tensor, stored_row(begin + i, tensor.interleaved_head_dim), 1, out + i * columns);
  }
  if (tensor.offset != 0.0f)
    for (int64_t i = 0; i < count * columns; ++i) out[i] += tensor.offset;
}

Buffer<float> decode(const PackedTensor& tensor) {
  auto out = Buffer<float>::uninitialized(static_cast<size_t>(element_count(tensor.shape)));
  decode_rows(tensor, 0, tensor.rows(), out.data());
  return out;
}

void Codec::cut_rows(const PackedTensor&, int64_t, int64_t, int64_t, PackedTensor&) const {
  TQ_CHECK(!"a codec whose matrices cannot be cut");
}

int64_t cut_unit(const PackedTensor& tensor) {
  const int64_t unit = tensor.shape.size() < 2 ? 0 : codec_of(tensor.codec).info().cut_unit;
  return tensor.interleaved_head_dim == 0 ? unit : std::lcm(unit, tensor.interleaved_head_dim);
}

PackedTensor cut_rows(const PackedTensor& tensor, int64_t expert, int64_t begin, int64_t count) {
  const int64_t unit = cut_unit(tensor), rows = tensor.shape[tensor.shape.size() - 2];
  TQ_CHECK(unit > 0 && begin % unit == 0 && count > 0 && begin + count <= rows);
  TQ_CHECK((begin + count) % unit == 0 || begin + count == rows);
  PackedTensor out{.codec = tensor.codec,
                   .variant = tensor.variant,
                   .shape = {count, tensor.columns()},
                   .parts = {},
                   .interleaved_head_dim = tensor.interleaved_head_dim,
                   .offset = tensor.offset,
                   .owner = tensor.owner};
  codec_of(tensor.codec).cut_rows(tensor, expert, begin, count, out);
  return out;
}

PackedTensor plain_tensor(TensorView view, std::shared_ptr<const void> owner) {
  PackedTensor tensor;
  tensor.shape = view.shape;
  tensor.parts.push_back({"weight", std::move(view)});
  tensor.owner = std::move(owner);
  return tensor;
}

PackedTensor plain_tensor(Shape shape, Buffer<float> values) {
  TQ_CHECK(static_cast<int64_t>(values.size()) == element_count(shape));
  auto owner = std::make_shared<Buffer<float>>(std::move(values));
  TensorView view{DType::kF32, std::move(shape), reinterpret_cast<const std::byte*>(owner->data())};
  return plain_tensor(std::move(view), owner);
}

}  // namespace tq
