#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/digits/digit_kernels.h"
#include "kernels/cpu/digits/digit_scale.h"

namespace tq::cpu {
namespace {

struct Place {
  int64_t step, line, byte;
  explicit Place(int64_t column) : step(column / kDigitStep), line(column % kDigitStep % 16), byte(column % kDigitStep / 16) {}
};

template <bool kIsLeft>
void split(const DigitSource& source, const DigitTarget& target) {
  for (int64_t first = 0, group = 0; first < source.columns; first += kDigitGroup, ++group) {
    uint8_t* values = target.values + group * target.group_bytes;
    float* scale = target.scale + group * target.scale_stride;
    const int64_t steps = (std::min(kDigitGroup, source.columns - first) + kDigitStep - 1) / kDigitStep;
    std::fill_n(values, steps * kDigits * kDigitTileBytes, uint8_t{0});
    std::fill_n(scale, kDigitRows, 0.0f);
    for (int64_t r = 0; r < source.count; ++r) {
      const float* row = source.rows + r * source.stride + first;
      const int64_t columns = std::min(kDigitGroup, source.columns - first);
      uint32_t largest = 0;
      for (int64_t k = 0; k < columns; ++k) largest = std::max(largest, std::bit_cast<uint32_t>(row[k]) & 0x7fffffffu);
      const DigitScale unit(largest);
      scale[r] = unit.scale;
      for (int64_t k = 0; k < columns; ++k) {
        const int32_t whole = unit.is_finite() ? static_cast<int32_t>(std::lrint(row[k] * unit.factor)) : 0;
        const int32_t shifted = whole + 0x8080;
        const int32_t digits[kDigits] = {shifted >> 16, (shifted >> 8 & 255) - 128, (shifted & 255) - 128};
        const Place at(k);
        for (int d = 0; d < kDigits; ++d)
          values[(at.step * kDigits + d) * kDigitTileBytes + (kIsLeft ? r * 64 + at.line * 4 : at.line * 64 + r * 4) + at.byte] =
              static_cast<uint8_t>(digits[d]);
      }
    }
  }
}

int32_t digit_product(const DigitProduct& product, int64_t tile, int64_t left_row, int64_t right_row, int left_digit, int right_digit) {
  int32_t sum = 0;
  for (int64_t k = 0; k < product.columns; ++k) {
    const Place at(k);
    const int64_t step = at.step * kDigits * kDigitTileBytes;
    const auto left = static_cast<int8_t>(
        product.left[tile * product.left_bytes + step + left_digit * kDigitTileBytes + left_row * 64 + at.line * 4 + at.byte]);
    const auto right = static_cast<int8_t>(product.right[step + right_digit * kDigitTileBytes + at.line * 64 + right_row * 4 + at.byte]);
    sum += left * right;
  }
  return sum;
}

void multiply(const DigitProduct& product) {
  for (int64_t tile = 0; tile < product.tiles; ++tile)
    for (int64_t l = 0; l < kDigitRows; ++l)
      for (int64_t r = 0; r < kDigitRows; ++r) {
        float orders[kDigits] = {};
        for (int i = 0; i < kDigits; ++i)
          for (int j = 0; i + j < kDigits; ++j) orders[i + j] += static_cast<float>(digit_product(product, tile, l, r, i, j));
        const float value = std::fma(orders[0], 65536.0f, std::fma(orders[1], 256.0f, orders[2]));
        float& sum = product.sums[(tile * kDigitRows + l) * kDigitRows + r];
        sum = std::fma(value, product.left_scale[tile * kDigitRows + l] * product.right_scale[r], sum);
      }
}

void write(const DigitOutput& args) {
  for (int64_t r = 0; r < args.right; ++r)
    for (int64_t l = 0; l < args.left; ++l)
      args.output[r * args.stride + l] = args.sums[l * args.sums_stride + r] + (args.bias ? args.bias[l] : 0.0f);
}

constexpr DigitKernels kTable = {split<true>, split<false>, multiply, write, nullptr, nullptr};

}  // namespace

const DigitKernels& digit_kernels_generic() { return kTable; }

#if defined(__x86_64__)
const DigitKernels& digit_kernels_amx();
#endif

const DigitKernels* digit_kernels([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAmx) return &digit_kernels_amx();
#endif
  return nullptr;
}

}  // namespace tq::cpu
