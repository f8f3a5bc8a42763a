// Rounds matrices to the grid on the device: the loop of quantize/round.h for a batch of matrices with the same number of columns.
// Same bytes on every run; not those of the CPU, whose search closes each ring at one seam: here a column is encoded in stretches of rows
// side by side, and every junction of two is searched again with both ends fixed.
#pragma once

#include <string>

#include "kernels/cuda/encode/row_staging.h"
#include "kernels/device_quantizer.h"

namespace tq::cuda {

// Errors as a line of text; empty: done.
std::string round_on_device(const RoundBatch& batch, RowStaging& staging, std::vector<RoundedMatrix>& out);

}  // namespace tq::cuda
