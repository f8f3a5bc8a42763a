#include "artifact/inputs.h"

#include <gtest/gtest.h>

namespace tq {
namespace {

TEST(Inputs, AreWrittenInNineCharactersAndReadBack) {
  for (const InputFacts& facts : {InputFacts{'o', 0}, InputFacts{'r', 17}, InputFacts{'i', 28672}}) {
    EXPECT_EQ(facts.text().size(), 9u);
    const InputFacts read = input_facts(facts.text());
    EXPECT_EQ(read.under, facts.under);
    EXPECT_EQ(read.dead, facts.dead);
  }
  EXPECT_TRUE(input_facts("").is_usual());
}

TEST(Inputs, OnlyWhatIsUnusualIsDescribed) {
  EXPECT_EQ(InputFacts{}.described(), "");
  EXPECT_EQ((InputFacts{'o', 2}).described(), "2 inputs are always zero");
  EXPECT_EQ((InputFacts{'o', 1}).described(), "1 input is always zero");
  EXPECT_EQ((InputFacts{'r', 2}).described(), "all tokens have one direction: errors of weights count alike; 2 inputs are always zero");
  EXPECT_EQ((InputFacts{'i', 64}).described(), "no tokens, or zeros alone: errors of weights count alike");
  EXPECT_EQ(described_experts("oooo"), "");
  EXPECT_EQ(described_experts("osoi"), "2 of 4 experts had too few tokens of their own, or none: 1, 3");
}

}  // namespace
}  // namespace tq
