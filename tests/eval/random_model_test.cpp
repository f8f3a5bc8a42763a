#include "eval/random_model.h"

#include <gtest/gtest.h>

#include "base/hash.h"

namespace tq {
namespace {

TEST(RandomModel, IsTheSameOnAnyNumberOfThreads) {
  const std::string name = "model.layers.7.mlp.down_proj.weight";
  uint64_t hashes[2];
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    const auto model = make_random_model({.bits = 2}, pool);
    ASSERT_TRUE(model) << model.error().message;
    hashes[threads / 3] = hash64(model->find(name)->part("bits")->span());
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

TEST(RandomModel, HasTheShapesOfItsName) {
  ThreadPool pool;
  const auto model = make_random_model({.bits = 3}, pool);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(count_weights(model->spec).all, 1100048384);
}

TEST(RandomModel, UnknownNamesAndRatesAreRefused) {
  ThreadPool pool(1);
  EXPECT_EQ(make_random_model({.name = "gpt-9"}, pool).error().code, ErrorCode::kUsage);
  EXPECT_EQ(make_random_model({.bits = 9}, pool).error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace tq
