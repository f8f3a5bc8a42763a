// Base and the NEON kernels against their portable forms; runs under an emulator, so it needs no test library.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/cpu.h"
#include "base/float16.h"
#include "base/rng.h"
#include "codec/grid/grid.h"
#include "kernels/cpu/plane/plane_matrix.h"
#include "kernels/cpu/tile/tile_linear.h"

namespace {

int failures = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("failed: %s\n", what);
  ++failures;
}

void halves_survive_the_way_through_float() {
  bool same = true, as_hardware = true;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = tq::f16_to_float(half);
    __fp16 native;
    std::memcpy(&native, &half, 2);
    if (std::isnan(value)) continue;
    same = same && tq::float_to_f16(value) == half;
    as_hardware = as_hardware && value == static_cast<float>(native);
  }
  expect(same, "every half survives the way through float");
  expect(as_hardware, "every half has the value that the processor gives it");
}

void floats_round_as_the_processor_rounds() {
  tq::Rng rng(1);
  bool same = true;
  for (int i = 0; i < 1000000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(rng.bits()));
    if (std::isnan(value)) continue;
    const auto native = static_cast<__fp16>(value);
    uint16_t bits;
    std::memcpy(&bits, &native, 2);
    same = same && bits == tq::float_to_f16(value);
  }
  expect(same, "floats become halves as the processor rounds");
}

void random_numbers_are_the_same_everywhere() {
  expect(tq::splitmix64(0) == 0xe220a8397b1dcdafull, "splitmix64(0) is the published value");
  tq::Rng rng(7);
  bool below = true;
  for (int i = 0; i < 1000; ++i) below = below && rng.below(10) < 10;
  expect(below, "below(n) stays below n");
}

// Parts of one stored matrix with random bits.
struct Stored {
  std::vector<uint8_t> rates, bits, sign;
  std::vector<uint16_t> scale;
  tq::grid::Matrix matrix;

  Stored(int64_t rows, int64_t columns, uint8_t rate, uint64_t seed)
      : rates(static_cast<size_t>((rows + 31) / 32), rate), matrix{.layout = tq::grid::Layout(rows, columns, rates), .taps = {}} {
    tq::Rng rng(seed);
    rates.back() = static_cast<uint8_t>(rate - 1);
    matrix.layout = tq::grid::Layout(rows, columns, rates);
    bits.resize(matrix.layout.bytes());
    // Padding is zero in a file; columns are padded to 4 and plane rows to 128.
    for (int64_t row = 0; row < matrix.layout.plane_rows; ++row)
      for (int64_t column = 0; column < columns; ++column)
        if (rng.bits() & 1)
          bits[static_cast<size_t>(matrix.layout.byte_of(row, column))] |= static_cast<uint8_t>(1 << tq::grid::Layout::bit_of(row));
    for (int64_t i = 0; i < (columns + 7) / 8; ++i) sign.push_back(static_cast<uint8_t>(rng.bits()));
    for (int64_t i = 0; i < rows; ++i) scale.push_back(tq::float_to_f16(0.01f + 0.01f * static_cast<float>(rng.uniform())));
    for (int k : {rate - 1, int{rate}}) {
      auto& taps = matrix.taps[static_cast<size_t>(k)];
      for (int j = 0; j < 8 + k; ++j) taps.push_back(static_cast<float>(std::pow(0.7, j)));
    }
    matrix.bits = bits.data(), matrix.sign = sign.data(), matrix.row_scale = scale.data();
  }
};

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max<double>(largest, std::abs(a[i] - b[i]));
    size = std::max<double>(size, std::abs(b[i]));
  }
  return largest / size;
}

// y[t, r] = sum_k W'[r, k] x'[k] in double.
std::vector<float> exact_product(const tq::grid::Matrix& matrix, std::vector<float> input, int64_t tokens) {
  const int64_t rows = matrix.layout.rows, columns = matrix.layout.columns;
  std::vector<float> weight(static_cast<size_t>(rows * columns)), output;
  tq::grid::decode_rotated(matrix, 0, rows, weight.data());
  tq::grid::rotate(input.data(), tokens, columns, matrix.sign);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t k = 0; k < columns; ++k)
        sum += static_cast<double>(weight[static_cast<size_t>(r * columns + k)]) * input[static_cast<size_t>(t * columns + k)];
      output.push_back(static_cast<float>(sum));
    }
  return output;
}

void neon_planes_agree(int64_t rows, int64_t columns, uint8_t rate, int64_t tokens) {
  const Stored stored(rows, columns, rate, static_cast<uint64_t>(rows));
  const tq::cpu::PlaneMatrix matrix(stored.matrix);
  tq::Rng rng(3);
  std::vector<float> input(static_cast<size_t>(tokens * columns));
  for (float& value : input) value = static_cast<float>(rng.gaussian());
  tq::ThreadPool threads(2);
  const auto product = [&](tq::Isa isa) {
    tq::cpu::PlaneInput planes;
    planes.set(input.data(), tokens, columns, matrix.sign(), true, isa, threads);
    std::vector<float> output(static_cast<size_t>(tokens * rows));
    const tq::cpu::PlaneJob job{.matrix = &matrix, .output = output.data()};
    tq::cpu::PlaneWorkspace workspace;
    tq::cpu::plane_linear({&job, 1}, planes, isa, threads, workspace);
    return output;
  };
  const std::vector<float> generic = product(tq::Isa::kGeneric), neon = product(tq::Isa::kNeon);
  expect(largest_difference(neon, generic) < 1e-5, "the NEON product equals the portable one");
  expect(largest_difference(neon, exact_product(stored.matrix, input, tokens)) < 1e-3, "the NEON product equals the decoded matrix's");
}

void neon_tiles_agree(int64_t rows, int64_t columns, uint8_t rate, int64_t tokens, bool high_precision) {
  const Stored stored(rows, columns, rate, static_cast<uint64_t>(rows));
  const tq::cpu::PlaneMatrix matrix(stored.matrix);
  tq::Rng rng(4);
  std::vector<float> input(static_cast<size_t>(tokens * columns)), output(static_cast<size_t>(tokens * rows));
  for (float& value : input) value = static_cast<float>(rng.gaussian());
  tq::ThreadPool threads(2);
  tq::cpu::PlaneInput planes;
  planes.set(input.data(), tokens, columns, matrix.sign(), high_precision, tq::Isa::kNeon, threads);
  const tq::cpu::PlaneJob job{.matrix = &matrix, .output = output.data()};
  tq::cpu::TileWorkspace workspace;
  tq::cpu::tile_linear({&job, 1}, planes, tq::Isa::kNeon, threads, workspace);
  // With 8 bits, steps of 1 / 127 of the largest activation and weight.
  expect(largest_difference(output, exact_product(stored.matrix, input, tokens)) < (high_precision ? 2e-3 : 3e-2),
         "NEON tiles give the decoded matrix's product");
}

}  // namespace

int main() {
  expect(tq::best_isa() == tq::Isa::kNeon, "NEON with dot products is found");
  halves_survive_the_way_through_float();
  floats_round_as_the_processor_rounds();
  random_numbers_are_the_same_everywhere();
  neon_planes_agree(100, 172, 3, 1);
  neon_planes_agree(96, 512, 4, 3);
  neon_planes_agree(64, 260, 8, 2);
  neon_planes_agree(33, 6, 2, 5);
  for (const bool high_precision : {false, true}) {
    neon_tiles_agree(100, 172, 3, 9, high_precision);
    neon_tiles_agree(64, 520, 5, 33, high_precision);
  }
  std::printf(failures == 0 ? "base and the NEON kernels agree\n" : "%d checks failed\n", failures);
  return failures == 0 ? 0 : 1;
}
