// The meaning of GGUF's block types.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tq::ggml {

bool can_decode(uint32_t type);

// Decodes `blocks` consecutive blocks of the type into out[blocks * block_size], bit for bit as the gguf Python package does: the same
// float operations in the same order. The type must be one that can_decode.
void decode_blocks(uint32_t type, const std::byte* data, int64_t blocks, float* out);

}  // namespace tq::ggml
