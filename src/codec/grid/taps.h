// The taps that come with the program, found by lab/taps.
#pragma once

#include <vector>

#include "codec/grid/grid.h"

namespace tq::grid {

// Taps of a rate and window, for a unit Gaussian. Empty if there are none.
const Taps& default_taps(int rate, int window);
// The windows of a rate, ascending: longer ones round better and take 2^L branches a weight.
std::vector<int> windows(int rate);

}  // namespace tq::grid
