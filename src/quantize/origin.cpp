#include "quantize/origin.h"

#include <algorithm>

#include "base/hash.h"
#include "base/json_text.h"
#include "base/mapped_file.h"
#include "quantize/calibration.h"

namespace tq {
namespace {

constexpr size_t kWhole = 64 << 10;  // bytes of an array that are all read
constexpr size_t kPiece = 4 << 10, kPieces = 4;

const std::string kUnknown(16, '0');

// Of pieces one after another.
class Hash {
 public:
  void add(std::span<const std::byte> bytes) { value_ = hash64(bytes, value_); }
  void add(const std::string& text) { add(std::as_bytes(std::span<const char>(text))); }
  std::string text() const { return hex64(value_); }

 private:
  uint64_t value_ = 0;
};

// From its first byte to its last.
void add_array(Hash& hash, std::span<const std::byte> bytes) {
  if (bytes.size() <= kWhole) return hash.add(bytes);
  for (size_t i = 0; i < kPieces; ++i) hash.add(bytes.subspan((bytes.size() - kPiece) / (kPieces - 1) * i, kPiece));
  hash.add(bytes.last(kPiece));
}

std::string source_hash(const Model& model) {
  Hash hash;
  hash.add(json_text(model.config));
  for (const CarriedFile& file : model.files) hash.add(fmt::format("{} {}\n", file.name, file.text.size())), hash.add(file.text);
  for (const auto& [name, tensor] : model.tensors) {
    hash.add(fmt::format("{} {} {} {} {} {}\n", name, static_cast<int>(tensor.codec), tensor.variant, shape_text(tensor.shape),
                         tensor.interleaved_head_dim, tensor.offset));
    for (const PackedTensor::Part& part : tensor.parts) {
      hash.add(fmt::format("{} {} {}\n", part.name, static_cast<int>(part.view.dtype), shape_text(part.view.shape)));
      add_array(hash, part.view.span());
    }
  }
  return hash.text();
}

std::string built_in_hash() {
  Hash hash;
  for (const CalibrationText& text : built_in_calibration())
    hash.add(fmt::format("{} {} {}\n", text.name, text.weight, text.text.size())), hash.add(text.text);
  return hash.text();
}

}  // namespace

Origin origin_of(const Model& model, const QuantizeOptions& options) {
  Origin origin{source_hash(model), {}};
  if (options.calibration.empty()) origin.calibration.push_back(built_in_hash());
  for (const std::string& path : options.calibration) {
    const auto file = MappedFile::open(path);  // it may be gone since it was read
    origin.calibration.push_back(file ? hex64(hash64((*file)->bytes())) : kUnknown);
  }
  return origin;
}

Origin unknown_origin(const QuantizeOptions& options) {
  return {kUnknown, std::vector<std::string>(std::max<size_t>(1, options.calibration.size()), kUnknown)};
}

void warn_of_quantized_source(const Model& model, Listener& listener) {
  const bool is_quantized = std::any_of(model.tensors.begin(), model.tensors.end(), [](const auto& entry) {
    return entry.second.codec != CodecId::kPlain && entry.second.codec != CodecId::kGgml;
  });
  if (is_quantized)
    listener.warn(fmt::format(
        "{}: tq has quantized it already, and what that lost stays lost; the original gives a better model of this size", model.source));
}

}  // namespace tq
