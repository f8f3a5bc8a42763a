// The trellis of a batch on the device.
#pragma once

#include <vector>

#include "kernels/cuda/encode/device_array.h"
#include "kernels/cuda/encode/trellis_tables.h"

namespace tq::cuda {

struct Trellis {
  int state_bits = 0;
  bool is_wide = false;
  float clamp = 0.0f;
  Array<float> newer, older, taps;
  Array<int32_t> window, merged;
  std::vector<int32_t> merged_bits;  // TrellisTables::merged
  TrellisTables tables{};

  explicit Trellis(const HostTrellis& host)
      : state_bits(host.state_bits), is_wide(host.is_wide), clamp(host.clamp), merged_bits(host.merged) {
    if (!host.error.empty()) throw DeviceError{host.error};
    newer = Array<float>(host.newer), older = Array<float>(host.older), taps = Array<float>(host.taps);
    window = Array<int32_t>(host.window), merged = Array<int32_t>(host.merged);
    tables = {newer.get(), older.get(), taps.get(), window.get(), merged.get()};
  }
};

}  // namespace tq::cuda
