// Which row range gets how many bits.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/spec.h"

namespace tq {

using Rates = std::vector<uint8_t>;  // [experts * ceil(R / 32)], K of each range of 32 rows

// The same mean rate everywhere, the two neighbouring integers spread evenly over the ranges. What rounding leaves over is carried from
// tensor to tensor, so that the mean over all never exceeds `bits`; the higher ranges of a matrix of 512 rows or more fill whole lines of
// 128 plane rows where they can, since padding would be stored.
std::vector<Rates> uniform_rates(std::span<const Linear* const> linears, double bits);

// The linears of the layers that have rates: all but routers.
std::vector<const Linear*> rated_linears(const ModelSpec& spec);

Rates constant_rates(const Linear& linear, int rate);

int64_t ranges_of(const Linear& linear);  // of all experts
double weights_of(const Linear& linear);
double weights_of(const Linear& linear, int64_t range);

}  // namespace tq
