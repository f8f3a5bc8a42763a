#include "quantize/text_overlap.h"

#include <gtest/gtest.h>

#include "base/mapped_file.h"

namespace tq {
namespace {

constexpr const char* kRun = "One two three four five six seven eight nine ten eleven twelve thirteen";

TEST(TextOverlap, IsFoundInRunsOfThirteenWordsWhateverStandsBetweenThem) {
  const std::vector<CalibrationText> calibration = {{"a", "nothing of it"}, {"b", std::string("so: ") + kRun + " and on"}};
  const auto found = overlaps("ONE two, three (four) five-six seven\neight nine ten eleven twelve \"thirteen\"! More", calibration);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].calibration, "b");
  EXPECT_DOUBLE_EQ(found[0].share, 0.5);  // the one of two runs
}

TEST(TextOverlap, NeedsThirteenWordsInARow) {
  const std::vector<CalibrationText> calibration = {{"a", kRun}};
  EXPECT_TRUE(overlaps("one two three four five six and seven eight nine ten eleven twelve thirteen", calibration).empty());
  EXPECT_TRUE(overlaps("", calibration).empty());
}

TEST(TextOverlap, OfTheBuiltInTextsAmongThemselvesIsLicencesAtMost) {
  const std::vector<CalibrationText> texts = built_in_calibration();
  for (const CalibrationText& text : texts)
    for (const TextOverlap& overlap : overlaps(text.text, texts))
      if (overlap.calibration != text.name) EXPECT_LT(overlap.share, 0.02) << text.name << " in " << overlap.calibration;
}

}  // namespace
}  // namespace tq
