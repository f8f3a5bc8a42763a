#include "quantize/allocation_plan.h"

#include <gtest/gtest.h>

#include <limits>

#include "model/family.h"

namespace tq {
namespace {

ModelSpec spec_of(int64_t layers) {
  ModelSpec spec;
  spec.head = {.name = "head", .in = 1, .out = 1};
  for (int64_t i = 0; i < layers; ++i) {
    Mlp mlp;
    const std::string layer = std::to_string(i);
    mlp.gate_up = {{.name = "g" + layer, .in = 8, .out = 16}, {.name = "u" + layer, .in = 8, .out = 16}};
    mlp.down = {.name = "d" + layer, .in = 16, .out = 8};
    spec.layers.push_back({{.pre = {}, .op = mlp, .post = {}}});
  }
  return spec;
}

AllocationPlan plan_of(const ModelSpec& spec, double bits, size_t sequences) {
  QuantizeOptions options;
  options.bits = bits;
  return allocation_plan(spec, options, sequences);
}

TEST(AllocationPlan, HasTheRatesAroundTheBase) {
  const ModelSpec spec = spec_of(4);
  EXPECT_EQ(plan_of(spec, 3.25, 48).rates, (std::vector<int>{2, 3, 4, 5, 6}));
  EXPECT_EQ(plan_of(spec, 2.0, 48).rates, (std::vector<int>{1, 2, 3, 4, 5}));
  EXPECT_EQ(plan_of(spec, 8.0, 48).rates, (std::vector<int>{7, 8}));
  EXPECT_EQ(plan_of(spec, 3.25, 48).standing, 4) << "about as near to the original as the calibrated model will be";
  EXPECT_EQ(plan_of(spec, 8.0, 48).standing, 8);
}

TEST(AllocationPlan, CostsAreTakenOnASixthWithinBounds) {
  const ModelSpec spec = spec_of(1);
  EXPECT_EQ(plan_of(spec, 3, 2).priced, 2u);
  EXPECT_EQ(plan_of(spec, 3, 10).priced, 4u);
  EXPECT_EQ(plan_of(spec, 3, 48).priced, 8u);
  EXPECT_EQ(plan_of(spec, 3, 1000).priced, 32u);
}

TEST(AllocationPlan, FewTokensDecideTextsLengthsAndMeasurements) {
  ModelSpec spec = spec_of(8);
  spec.context = 4096;
  QuantizeOptions options;
  options.bits = 3, options.allocate_tokens = 2048;
  const AllocationPlan plan = allocation_plan(spec, options, 48);
  EXPECT_EQ(plan.candidates, 4u);  // of 1024 tokens, twice as many as are priced
  EXPECT_EQ(plan.length, 256);
  EXPECT_EQ(plan.priced, 8u);
  EXPECT_EQ(plan.held_out, 8u);
  EXPECT_EQ(plan.repricings, 0u);
  EXPECT_EQ(allocation_plan(spec, options, 2).candidates, 2u);  // all that there are
  EXPECT_LT(allocation_operations(spec, plan, 1024), 0.2 * allocation_operations(spec, plan_of(spec, 3, 48), 1024));
  options.allocate_tokens = 1024;
  EXPECT_DOUBLE_EQ(2 * allocation_operations(spec, allocation_plan(spec, options, 48), 1024), allocation_operations(spec, plan, 1024));
}

TEST(AllocationPlan, CandidatesAreRoundedByAllTextWhereItsTokensAreWeighted) {
  ModelSpec spec = spec_of(8);
  spec.context = 4096;
  QuantizeOptions options;
  options.bits = 3, options.allocate_tokens = 2048, options.gradients = true;
  const AllocationPlan plan = allocation_plan(spec, options, 48);
  EXPECT_EQ(plan.candidates, 48u);
  EXPECT_EQ(plan.priced, 8u);
}

// The guard has six whole sequences, however few the calibration has.
TEST(AllocationPlan, HasNoMoreOfAnythingThanTheTextHas) {
  ModelSpec spec = spec_of(8);
  spec.context = 4096;
  QuantizeOptions options;
  options.bits = 3;
  for (const int64_t tokens : {int64_t{200'000}, std::numeric_limits<int64_t>::max()}) {
    options.allocate_tokens = tokens;
    const AllocationPlan plan = allocation_plan(spec, options, 3);
    EXPECT_EQ(plan.candidates, 3u);
    EXPECT_EQ(plan.priced, 12u);  // four of each sequence
    EXPECT_EQ(plan.held_out, 24u);
  }
  options.allocate_tokens = 4096;
  const AllocationPlan plan = allocation_plan(spec, options, 3);
  EXPECT_EQ(plan.priced, 12u);
  EXPECT_EQ(plan.held_out, 16u);
  options.sequence = 100;  // short as they are
  EXPECT_EQ(allocation_plan(spec, options, 3).length, 100);
  EXPECT_EQ(allocation_plan(spec, options, 3).priced, 3u);
  EXPECT_EQ(allocation_plan(spec, options, 3).held_out, 6u);
}

// Forward, forward again, the inputs' gradients, the original's products and each candidate's; the head forward and back.
TEST(AllocationPlan, EveryPricedTokenIsCountedInBothRounds) {
  const ModelSpec spec = spec_of(4);
  AllocationPlan plan = plan_of(spec, 3, 48);
  for (const size_t again : {1, 0}) {
    plan.repricings = again;
    AllocationPlan more = plan;
    ++more.priced;
    const double weights = 4 * 3 * 8 * 16, head = 1;
    EXPECT_NEAR(allocation_operations(spec, more, 512) - allocation_operations(spec, plan, 512),
                512 * static_cast<double>(1 + again) * ((4 + 5) * weights + 2 * head), 1e-3);
  }
}

TEST(AllocationPlan, OperationsGrowWithTextAndModel) {
  const ModelSpec small = spec_of(4), large = spec_of(8);
  const double base = allocation_operations(small, plan_of(small, 3, 48), 512);
  EXPECT_DOUBLE_EQ(allocation_operations(small, plan_of(small, 3, 48), 1024), 2 * base);
  EXPECT_NEAR(allocation_operations(large, plan_of(large, 3, 48), 512) / base, 2, 0.01);  // but for the head
  EXPECT_GT(base, allocation_operations(small, plan_of(small, 8, 48), 512));              // fewer rates
}

}  // namespace
}  // namespace tq
