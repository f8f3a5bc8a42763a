// Parts: "source", U8 [ranges]; and those of each source, "N/" before their names, N its place.
#include <algorithm>

#include "base/check.h"
#include "codec/grid/layout.h"
#include "codec/mixed/mixed.h"

namespace tq {
namespace {

// What the parts point into.
struct Owned {
  std::vector<uint8_t> source;
  std::vector<std::shared_ptr<const void>> others;
};

PackedTensor source_of(const PackedTensor& tensor, int place) {
  PackedTensor out{.codec = CodecId::kGrid, .shape = tensor.shape};
  const std::string prefix = std::to_string(place) + "/";
  for (const PackedTensor::Part& part : tensor.parts)
    if (part.name.starts_with(prefix)) out.parts.push_back({part.name.substr(prefix.size()), part.view});
  return out;
}

int64_t ranges_of(int64_t rows) { return (rows + grid::kRateRows - 1) / grid::kRateRows; }

class MixedCodec final : public Codec {
 public:
  CodecInfo info() const override { return {.name = "mixed", .id = CodecId::kMixed, .version = 1}; }

  Status validate(const PackedTensor& tensor, const std::string& where) const override {
    const TensorView* source = tensor.part("source");
    if (!source || tensor.shape.size() < 2) return bad_input("{}: no mixture of tensors", where);
    const int64_t rows = tensor.shape[tensor.shape.size() - 2];
    if (source->count() != tensor.rows() / rows * ranges_of(rows)) return bad_input("{}: {} ranges do not fit", where, source->count());
    for (int64_t i = 0; i < source->count(); ++i)
      TQ_TRY(codec_of(CodecId::kGrid).validate(source_of(tensor, source->as<uint8_t>()[i]), where));
    return {};
  }

  void decode_rows(const PackedTensor& tensor, int64_t begin, int64_t count, float* out) const override {
    const int64_t rows = tensor.shape[tensor.shape.size() - 2];
    const uint8_t* source = tensor.part("source")->as<uint8_t>();
    while (count > 0) {
      const int64_t expert = begin / rows, last = (expert + 1) * rows;
      const auto range = [&](int64_t row) { return expert * ranges_of(rows) + (row - expert * rows) / grid::kRateRows; };
      int64_t end = begin;  // of the rows that come from the same source
      while (end < std::min(begin + count, last) && source[range(end)] == source[range(begin)]) ++end;
      tq::decode_rows(source_of(tensor, source[range(begin)]), begin, end - begin, out);
      out += (end - begin) * tensor.columns(), count -= end - begin, begin = end;
    }
  }
};

}  // namespace

const Codec& mixed_codec() {
  static const MixedCodec codec;
  return codec;
}

PackedTensor mixed_tensor(std::span<const PackedTensor* const> sources, std::vector<uint8_t> source) {
  TQ_CHECK(!sources.empty());
  PackedTensor out{.codec = CodecId::kMixed, .shape = sources[0]->shape};
  auto owned = std::make_shared<Owned>(Owned{.source = std::move(source), .others = {}});
  out.parts.push_back(
      {"source", {DType::kU8, {static_cast<int64_t>(owned->source.size())}, reinterpret_cast<const std::byte*>(owned->source.data())}});
  for (size_t i = 0; i < sources.size(); ++i) {
    TQ_CHECK(sources[i]->codec == CodecId::kGrid && sources[i]->shape == out.shape);
    for (const PackedTensor::Part& part : sources[i]->parts) out.parts.push_back({fmt::format("{}/{}", i, part.name), part.view});
    owned->others.push_back(sources[i]->owner);
  }
  out.owner = owned;
  return out;
}

}  // namespace tq
