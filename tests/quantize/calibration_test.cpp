#include "quantize/calibration.h"

#include <gmock/gmock.h>

namespace tq {
namespace {

using testing::ElementsAre;

TEST(Calibration, TextsShareSequencesByTheirWeights) {
  const std::vector<CalibrationText> texts = {{"prose", "", 1}, {"code", "", 3}, {"speech", "", 1}};
  EXPECT_THAT(share_out(texts, std::vector<int64_t>{100, 100, 100}, 50), ElementsAre(10, 30, 10));
  EXPECT_THAT(share_out(texts, std::vector<int64_t>{100, 100, 100}, 7), ElementsAre(2, 4, 1));
}

TEST(Calibration, WhatATextLacksGoesToTheOthers) {
  const std::vector<CalibrationText> texts = {{"prose", "", 1}, {"code", "", 3}, {"speech", "", 1}};
  EXPECT_THAT(share_out(texts, std::vector<int64_t>{100, 5, 100}, 45), ElementsAre(20, 5, 20));
  EXPECT_THAT(share_out(texts, std::vector<int64_t>{2, 5, 0}, 45), ElementsAre(2, 5, 0));
}

}  // namespace
}  // namespace tq
