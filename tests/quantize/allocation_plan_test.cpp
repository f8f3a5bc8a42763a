#include "quantize/allocation_plan.h"

#include <gtest/gtest.h>

#include "model/family.h"

namespace tq {
namespace {

ModelSpec spec_of(int64_t layers) {
  ModelSpec spec;
  spec.head = {.name = "head", .in = 1, .out = 1};
  for (int64_t i = 0; i < layers; ++i) {
    Mlp mlp;
    mlp.gate_up = {{.name = "g", .in = 8, .out = 16}, {.name = "u", .in = 8, .out = 16}};
    mlp.down = {.name = "d", .in = 16, .out = 8};
    spec.layers.push_back({{.pre = {}, .op = mlp, .post = {}}});
  }
  return spec;
}

TEST(AllocationPlan, HasTheRatesAroundTheBase) {
  const ModelSpec spec = spec_of(4);
  EXPECT_EQ(allocation_plan(spec, 3.25, 48).rates, (std::vector<int>{2, 3, 4, 5}));
  EXPECT_EQ(allocation_plan(spec, 2.0, 48).rates, (std::vector<int>{2, 3, 4}));
  EXPECT_EQ(allocation_plan(spec, 8.0, 48).rates, (std::vector<int>{7, 8}));
  EXPECT_EQ(allocation_plan(spec, 3.0, 48).tried, 3u);  // a quarter of twelve
  EXPECT_EQ(allocation_plan(spec, 2.0, 48).tried, 0u);  // nothing below
}

TEST(AllocationPlan, PricesAreMadeOnASixthWithinBounds) {
  const ModelSpec spec = spec_of(1);
  EXPECT_EQ(allocation_plan(spec, 3, 2).priced, 2u);
  EXPECT_EQ(allocation_plan(spec, 3, 10).priced, 4u);
  EXPECT_EQ(allocation_plan(spec, 3, 48).priced, 8u);
  EXPECT_EQ(allocation_plan(spec, 3, 1000).priced, 32u);
}

TEST(AllocationPlan, OperationsGrowWithTextAndModel) {
  const ModelSpec small = spec_of(4), large = spec_of(8);
  const double base = allocation_operations(small, allocation_plan(small, 3, 48), 512);
  EXPECT_DOUBLE_EQ(allocation_operations(small, allocation_plan(small, 3, 48), 1024), 2 * base);
  EXPECT_GT(allocation_operations(large, allocation_plan(large, 3, 48), 512), 2 * base);  // twice as many trials, each twice as long
  EXPECT_GT(base, allocation_operations(small, allocation_plan(small, 2, 48), 512));
}

}  // namespace
}  // namespace tq
