#include "base/cpu.h"

#include <array>
#include <utility>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tq {
namespace {

constexpr std::array<std::pair<Isa, std::string_view>, 6> kNames{{{Isa::kGeneric, "generic"},
                                                                  {Isa::kAvx2, "avx2"},
                                                                  {Isa::kAvx512, "avx512"},
                                                                  {Isa::kAvx512Bf16, "avx512bf16"},
                                                                  {Isa::kAmx, "amx"},
                                                                  {Isa::kNeon, "neon"}}};

#if defined(__x86_64__)
// Tiles are 8 KB more of every thread's state, which Linux keeps only for processes that ask (Documentation/arch/x86/xstate.rst).
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, the component
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24, kInt8 = 1u << 25;
  if ((edx & kBf16) == 0 || (edx & kTiles) == 0 || (edx & kInt8) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

}  // namespace

std::string_view isa_name(Isa isa) {
  for (const auto& [value, name] : kNames)
    if (value == isa) return name;
  return "unknown";
}

std::optional<Isa> isa_from_name(std::string_view name) {
  for (const auto& [value, text] : kNames)
    if (text == name) return value;
  return std::nullopt;
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas{Isa::kGeneric};
#if defined(__x86_64__)
  // Every processor with AVX2 and FMA has F16C too; clang 16 cannot ask for it.
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return isas;
  isas.push_back(Isa::kAvx2);
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")))
    return isas;
  isas.push_back(Isa::kAvx512);
  if (!__builtin_cpu_supports("avx512bf16")) return isas;
  isas.push_back(Isa::kAvx512Bf16);
  if (may_use_tiles()) isas.push_back(Isa::kAmx);
#elif defined(__aarch64__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) isas.push_back(Isa::kNeon);
#endif
  return isas;
}

Isa best_isa() { return supported_isas().back(); }

bool has_full_width_avx512() {
#if defined(__x86_64__)
  unsigned performance = 0, signature = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(0x8000001A, &performance, &ebx, &ecx, &edx) && __get_cpuid(1, &signature, &ebx, &ecx, &edx) &&
         has_full_width_avx512(performance, signature);
#else
  return false;
#endif
}

// AMD64 Architecture Programmer's Manual, volume 3, appendix E.
bool has_full_width_avx512(uint32_t performance, uint32_t signature) {
  constexpr uint32_t kFp256 = 1u << 2, kFp512 = 1u << 3, kZen5 = 0x1A, kServers = 0x20;  // models below are EPYC
  if ((performance & (kFp256 | kFp512)) != 0) return (performance & kFp512) != 0;
  const uint32_t family = (signature >> 8 & 0xF) + (signature >> 20 & 0xFF), model = (signature >> 4 & 0xF) | (signature >> 12 & 0xF0);
  return family == kZen5 && model < kServers;
}

}  // namespace tq
