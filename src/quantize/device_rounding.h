// Rounding to the grid on a device, with the results of round_to_grid.
#pragma once

#include <functional>
#include <vector>

#include "base/context.h"
#include "kernels/backend.h"
#include "quantize/round.h"

namespace tq {

// Whether a device rounds matrices of so many rows at these rates.
bool device_can_round(std::span<const uint8_t> rates, int64_t rows, const grid::TapsByRate& taps);

// Rounds matrices of one width in as few batches as the device's memory allows. Isa and threads of the requests are not used.
// Errors: kFailed with what the device says; kInterrupted.
Result<std::vector<Rounded>> round_on_device(const std::vector<RoundRequest>& requests, Backend& backend, const Context& context);

}  // namespace tq
