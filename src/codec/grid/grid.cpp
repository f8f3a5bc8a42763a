// Opening a stored matrix, and the scalar decoder that gives the format its meaning.
#include "codec/grid/grid.h"

#include <charconv>

#include "base/check.h"
#include "base/float16.h"

namespace tq::grid {
namespace {

// Takes the digits at the front of the text off it; false where there are none.
bool read_number(std::string_view& text, int& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

}  // namespace

bool parse_taps_name(std::string_view name, int& rate, int& window) {
  constexpr std::string_view kPrefix = "taps.";
  if (!name.starts_with(kPrefix)) return false;
  name.remove_prefix(kPrefix.size());
  if (!read_number(name, rate) || !name.starts_with('.')) return false;
  name.remove_prefix(1);
  return read_number(name, window) && name.empty() && rate >= kMinRate && rate <= kMaxRate && window >= 1 && window <= kMaxWindow;
}

std::string taps_name(int rate, int window) { return fmt::format("taps.{}.{}", rate, window); }

Matrix open(const PackedTensor& tensor, int64_t expert) {
  const size_t dims = tensor.shape.size();
  TQ_CHECK(dims == 2 || dims == 3);
  TQ_CHECK(expert >= 0 && expert < (dims == 3 ? tensor.shape[0] : 1));
  const int64_t rows = tensor.shape[dims - 2], columns = tensor.shape[dims - 1];
  const size_t ranges = static_cast<size_t>((rows + kRateRows - 1) / kRateRows);
  const uint8_t* rates = tensor.part("rates")->as<uint8_t>();
  const uint8_t* bits = tensor.part("bits")->as<uint8_t>();
  for (int64_t e = 0; e < expert; ++e) bits += Layout(rows, columns, {rates + static_cast<size_t>(e) * ranges, ranges}).bytes();
  const TensorView* cut = tensor.part("cut");
  const auto lead = cut ? static_cast<int64_t>(cut->as<double>()[0]) : 0;
  Matrix matrix{Layout(rows, columns, {rates + static_cast<size_t>(expert) * ranges, ranges}, lead),
                bits,
                tensor.part("row_scale")->as<uint16_t>() + expert * rows,
                tensor.part("sign")->as<uint8_t>(),
                {}};
  if (cut) matrix.mean_rate = cut->as<double>()[1], matrix.whole_rows = static_cast<int64_t>(cut->as<double>()[2]);
  if (const TensorView* precision = tensor.part("activation_bits")) matrix.activation_bits = *precision->as<uint8_t>();
  for (const PackedTensor::Part& part : tensor.parts) {
    int rate = 0, window = 0;
    if (!parse_taps_name(part.name, rate, window)) continue;
    const float* taps = part.view.as<float>();
    matrix.taps[static_cast<size_t>(rate)].assign(taps, taps + window);
  }
  return matrix;
}

void decode_rotated(const Matrix& matrix, int64_t begin, int64_t count, float* out) {
  const Layout& layout = matrix.layout;
  TQ_CHECK(begin >= 0 && count >= 0 && begin + count <= layout.rows);
  for (int64_t r = begin; r < begin + count; ++r, out += layout.columns) {
    const Taps& taps = matrix.taps[layout.rate[static_cast<size_t>(r)]];
    for (int64_t k = 0; k < layout.columns; ++k) out[k] = 0.0f;
    for (size_t j = 0; j < taps.size(); ++j) {
      // The ring closes over the real plane rows; a tiny matrix may be wound several times.
      int64_t plane_row = (layout.newest[static_cast<size_t>(r)] - static_cast<int64_t>(j)) % layout.plane_rows;
      if (plane_row < 0) plane_row += layout.plane_rows;
      const uint8_t* bytes = matrix.bits + layout.byte_of(plane_row, 0);
      const int bit = Layout::bit_of(plane_row);
      const float signed_tap[2] = {-taps[j], taps[j]};
      for (int64_t k = 0; k < layout.columns; ++k) out[k] += signed_tap[bytes[k / kLineColumns * kLineBytes + k % kLineColumns] >> bit & 1];
    }
    const float scale = f16_to_float(matrix.row_scale[r]);
    for (int64_t k = 0; k < layout.columns; ++k) out[k] *= scale;
  }
}

}  // namespace tq::grid
