#include "base/cpu.h"

#include <gtest/gtest.h>

namespace tq {
namespace {

constexpr uint32_t kZen3 = 0x00A20F10, kZen5Server = 0x00B00F21, kZen5Mobile = 0x00B20F40;  // CPUID 1h, eax

TEST(Cpu, WidthOfItsUnitsIsWhatTheProcessorSays) {
  EXPECT_TRUE(has_full_width_avx512(0b1110, kZen5Server));
  EXPECT_FALSE(has_full_width_avx512(0b0110, kZen5Server));
  EXPECT_FALSE(has_full_width_avx512(0b0110, kZen3));
}

TEST(Cpu, TheModelTellsWhereAHypervisorHidesTheWidth) {
  EXPECT_TRUE(has_full_width_avx512(0b0010, kZen5Server));
  EXPECT_FALSE(has_full_width_avx512(0b0010, kZen5Mobile));
  EXPECT_FALSE(has_full_width_avx512(0b0010, kZen3));
}

}  // namespace
}  // namespace tq
