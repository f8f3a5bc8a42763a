// Trellis branches a second of the encoder on one thread, for every table of taps and instruction set: encoder_speed [ROWS].
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "base/rng.h"
#include "codec/grid/encoder.h"
#include "codec/grid/taps.h"

namespace {

using namespace tq;

void measure(int rate, int window, int64_t rows, Isa isa) {
  const std::vector<uint8_t> rates(static_cast<size_t>((rows + grid::kRateRows - 1) / grid::kRateRows), static_cast<uint8_t>(rate));
  const grid::Layout layout(rows, 1, rates);
  grid::TapsByRate taps;
  taps[static_cast<size_t>(rate)] = grid::default_taps(rate, window);
  grid::ColumnEncoder encoder(layout, taps, isa);
  Rng rng(1);
  std::vector<float> target(static_cast<size_t>(rows)), weight(target.size(), 1.0f), value(target.size());
  std::vector<uint8_t> bits(static_cast<size_t>(layout.plane_rows));
  double seconds = 0.0;
  int columns = 0;
  for (; seconds < 0.2; ++columns) {
    for (float& t : target) t = static_cast<float>(rng.gaussian());
    const auto start = std::chrono::steady_clock::now();
    encoder.encode(target.data(), weight.data(), bits.data(), value.data());
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::printf("| %d | %d | %.*s | %.1f | %.0f |\n", rate, window, static_cast<int>(isa_name(isa).size()), isa_name(isa).data(),
              encoder.branches() * columns / seconds * 1e-9, seconds * 1e9 / columns / static_cast<double>(rows));
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t rows = argc > 1 ? std::max(1L, std::atol(argv[1])) : 2048;
  std::printf("| K | L | instruction set | G branches/s | ns a weight |\n|---|---|---|---|---|\n");
  for (int rate = 2; rate <= grid::kMaxRate; ++rate)
    for (const int window : grid::windows(rate))
      for (const Isa isa : supported_isas())
        if (isa != Isa::kAvx512Bf16 && (isa != Isa::kGeneric || window <= 12)) measure(rate, window, rows, isa);
  return 0;
}
