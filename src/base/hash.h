// 64-bit content hashes (XXH3), for change detection and file integrity; not for security.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace tq {

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed = 0);
std::string hex64(uint64_t value);  // 16 lower-case digits

}  // namespace tq
