// Ranges of rows of several grid tensors of one shape, seen as one tensor. In memory alone: no file has it.
#pragma once

#include <span>

#include "codec/codec.h"

namespace tq {

// Range i of 32 rows (of a stack, expert after expert) is that of sources[source[i]]. source: [experts * ceil(R / 32)]. The sources' memory
// is not copied; they may go, their owners are kept.
PackedTensor mixed_tensor(std::span<const PackedTensor* const> sources, std::vector<uint8_t> source);

}  // namespace tq
