// Which instruction sets this processor offers, and the choice among the kernels built for them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace tq {

// Ordered from least to best within one architecture.
//   generic  portable C++
//   avx2     AVX2 + FMA + F16C
//   avx512   AVX-512 F/BW/DQ/VL + VNNI
//   avx512bf16   the same + BF16 products (Zen 4, Sapphire Rapids)
//   amx      the same + tiles of bytes and of BF16 (Sapphire Rapids and later Xeons), which Linux has to be asked for once
//   neon     ARMv8 with dot products (sdot)
enum class Isa { kGeneric, kAvx2, kAvx512, kAvx512Bf16, kAmx, kNeon };

std::string_view isa_name(Isa isa);
std::optional<Isa> isa_from_name(std::string_view name);
// Every set this processor can run, least first; always begins with kGeneric. Asks for the tiles of AMX, for this process and its threads
// to come.
std::vector<Isa> supported_isas();
Isa best_isa();
// Whether AVX-512 has units as wide as its vectors, as AMD says of its processors (Zen 5): others take two turns for one, or say nothing.
bool has_full_width_avx512();
// By eax of CPUID 8000001Ah and of 1h: some hypervisors show the former without what it says of widths, and then the model tells.
bool has_full_width_avx512(uint32_t performance, uint32_t signature);

}  // namespace tq
