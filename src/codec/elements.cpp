#include "codec/elements.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/check.h"
#include "base/float16.h"

namespace tq {
namespace {

constexpr int64_t kBandElements = 1 << 20;

// Whether none of these finite values is rounded to infinity.
bool to_halves(std::span<const float> values, DType dtype, uint16_t* out) {
  const bool is_bf16 = dtype == DType::kBF16;
  const uint16_t infinity = is_bf16 ? 0x7f80 : 0x7c00;
  bool fits = true;
  for (size_t i = 0; i < values.size(); ++i) {
    out[i] = is_bf16 ? float_to_bf16(values[i]) : float_to_f16(values[i]);
    fits &= (out[i] & 0x7fff) < infinity;
  }
  return fits;
}

// What one band needs.
struct Band {
  std::vector<float> values;
  std::vector<uint16_t> halves;  // none for F32
  std::atomic<bool> is_finite = true, fits = true;
};

void decode_part(const ElementRows& rows, int64_t row, int64_t first, int64_t last, Band& band) {
  const int64_t columns = rows.tensor.columns();
  const auto at = static_cast<size_t>(first * columns), count = static_cast<size_t>((last - first) * columns);
  const std::span<float> values(band.values.data() + at, count);
  decode_rows(rows.tensor, row + first, last - first, values.data());
  if (!are_finite(values)) band.is_finite = false;
  else if (rows.dtype != DType::kF32 && !to_halves(values, rows.dtype, band.halves.data() + at)) band.fits = false;
}

// "model.gguf: tensor output.weight"
std::string name_of(const ElementRows& rows) {
  return fmt::format("{}{}tensor {}", rows.source, rows.source.empty() ? "" : ": ", rows.name);
}

}  // namespace

bool are_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

Status write_elements(const ElementRows& rows, const std::function<Status(std::span<const std::byte>)>& sink, ThreadPool* threads) {
  TQ_CHECK(rows.dtype == DType::kF32 || rows.dtype == DType::kF16 || rows.dtype == DType::kBF16);
  const int64_t columns = rows.tensor.columns(), all = rows.end - rows.begin;
  const bool is_whole = codec_of(rows.tensor.codec).info().is_whole;
  const int64_t height = is_whole ? all : std::min(all, std::max<int64_t>(1, kBandElements / std::max<int64_t>(1, columns)));
  Band band;
  band.values.resize(static_cast<size_t>(height * columns));
  if (rows.dtype != DType::kF32) band.halves.resize(band.values.size());
  for (int64_t row = rows.begin; row < rows.end; row += height) {
    const int64_t here = std::min(height, rows.end - row);
    const auto decode = [&](int64_t first, int64_t last, int) { decode_part(rows, row, first, last, band); };
    if (threads) threads->run(here, is_whole ? here : std::max<int64_t>(1, here / 64), decode);
    else decode(0, here, 0);
    if (!band.is_finite) return bad_input("{} holds values that are no finite numbers; fetch or convert the model again", name_of(rows));
    if (!band.fits)
      return bad_input("{} holds values beyond the range of {}; tq convert --dtype f32 keeps them", name_of(rows), dtype_name(rows.dtype));
    const auto count = static_cast<size_t>(here * columns);
    TQ_TRY(rows.dtype == DType::kF32 ? sink(std::as_bytes(std::span<const float>(band.values.data(), count)))
                                     : sink(std::as_bytes(std::span<const uint16_t>(band.halves.data(), count))));
  }
  return {};
}

}  // namespace tq
