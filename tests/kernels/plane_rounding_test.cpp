#include "kernels/kv_row.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "kernels/cpu/plane/plane_input.h"

namespace tq {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> normal(int64_t count) {
  Rng rng(7);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(rng.gaussian());
  return values;
}

TEST(KvRow, AKeyThatIsNoNumberIsReadAsNone) {
  for (const float bad : {kNaN, kInfinity}) {
    std::vector<float> values = normal(64), read(64);
    values[5] = bad;
    std::vector<std::byte> row(static_cast<size_t>(kv_row_bytes(KvType::kQ8, 64)));
    store_kv_row(KvType::kQ8, values.data(), 64, row.data());
    load_kv_row(KvType::kQ8, row.data(), 64, read.data());
    for (const float each : read) EXPECT_TRUE(std::isnan(each));
  }
}

class PlaneRounding : public testing::TestWithParam<Isa> {};

TEST_P(PlaneRounding, AnInputThatIsNoNumberHasAScaleThatIsNone) {
  constexpr int64_t kColumns = 300;  // a group of 256 and a part of one
  const std::vector<uint8_t> sign((kColumns + 7) / 8, 0);
  ThreadPool threads(1);
  for (const bool is_fine : {false, true})
    for (const float bad : {kNaN, kInfinity})
      for (const int64_t at : {0, 100, 255, 270, 299}) {
        std::vector<float> values = normal(kColumns);
        values[static_cast<size_t>(at)] = bad;
        cpu::PlaneInput input;
        input.set(values.data(), 1, kColumns, sign.data(), is_fine, GetParam(), threads);
        EXPECT_TRUE(std::isnan(input.sum(0)));
        for (int stream = 0; stream < input.streams_per_token(); ++stream) {
          EXPECT_TRUE(std::isnan(input.stream(0, stream).scale[at / cpu::kGroupColumns])) << at;
        }
      }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, PlaneRounding, testing::ValuesIn(supported_isas()),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

}  // namespace
}  // namespace tq
