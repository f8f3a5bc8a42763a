#include "codec/grid/taps.h"

namespace tq::grid {
namespace {

const std::vector<Taps>* tables(int rate) {
  // [rate] -> tables of ascending window.
  static const std::array<std::vector<Taps>, kMaxRate + 1> kTables{{
#include "codec/grid/taps_table.inc"
  }};
  return rate >= kMinRate && rate <= kMaxRate ? &kTables[static_cast<size_t>(rate)] : &kTables[0];
}

}  // namespace

const Taps& default_taps(int rate, int window) {
  static const Taps kNone;
  for (const Taps& taps : *tables(rate))
    if (static_cast<int>(taps.size()) == window) return taps;
  return kNone;
}

std::vector<int> windows(int rate) {
  std::vector<int> found;
  for (const Taps& taps : *tables(rate)) found.push_back(static_cast<int>(taps.size()));
  return found;
}

}  // namespace tq::grid
