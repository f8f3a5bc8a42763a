#include "run/page_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace tq {
namespace {

using Tokens = std::vector<TokenId>;
constexpr PagePool::Prefix kRoot = 0;

TEST(PagePool, GivesEveryPageOnceUntilOneIsReleased) {
  PagePool pool(3, 2);
  const int32_t a = *pool.take(), b = *pool.take(), c = *pool.take();
  EXPECT_EQ((std::set<int32_t>{a, b, c}), (std::set<int32_t>{0, 1, 2}));
  EXPECT_FALSE(pool.take());
  pool.release(b);
  EXPECT_EQ(pool.take(), b);
}

TEST(PagePool, FindsPagesByTheWholeBeginning) {
  PagePool pool(4, 2);
  const int32_t first = *pool.take(), second = *pool.take();
  const auto after_first = pool.publish(first, kRoot, Tokens{5, 6});
  pool.publish(second, after_first, Tokens{7, 8});
  EXPECT_FALSE(pool.find(kRoot, Tokens{5, 7}));
  EXPECT_FALSE(pool.find(kRoot, Tokens{7, 8}));
  EXPECT_FALSE(pool.find(PagePool::root(1), Tokens{5, 6}));
  const auto found = pool.find(kRoot, Tokens{5, 6});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->page, first);
  EXPECT_EQ(pool.find(found->prefix, Tokens{7, 8})->page, second);
}

TEST(PagePool, PagesWithReferencesAreNeverGivenAway) {
  PagePool pool(2, 1);
  const int32_t shared = *pool.take();
  pool.publish(shared, kRoot, Tokens{1});
  ASSERT_TRUE(pool.find(kRoot, Tokens{1}));
  pool.release(shared);  // one of two references
  ASSERT_TRUE(pool.take());
  EXPECT_FALSE(pool.take());
  EXPECT_EQ(pool.in_use(), 2);
}

TEST(PagePool, ForgetsWhatWasReleasedLongestAgoFirst) {
  PagePool pool(3, 1);
  for (TokenId token = 0; token < 3; ++token) pool.publish(*pool.take(), kRoot, Tokens{token});
  for (const int32_t page : {1, 0, 2}) pool.release(page);
  EXPECT_EQ(pool.available(), 3);
  EXPECT_EQ(pool.take(), 1);
  EXPECT_FALSE(pool.find(kRoot, Tokens{1}));
  ASSERT_TRUE(pool.find(kRoot, Tokens{0}));  // in use again
  EXPECT_EQ(pool.take(), 2);
  EXPECT_FALSE(pool.take());
}

TEST(PagePool, FindsThePageThatAgreesTheLongest) {
  PagePool pool(5, 4);
  const int32_t full = *pool.take(), part = *pool.take(), other = *pool.take();
  pool.publish(full, kRoot, Tokens{1, 2, 3, 4});
  pool.publish(part, kRoot, Tokens{1, 2, 9});
  pool.publish(other, PagePool::root(1), Tokens{1, 2, 9, 9});
  const auto found = [&](const Tokens& tokens) {
    const auto alike = pool.find_alike(kRoot, tokens);
    return alike ? std::pair(alike->page, alike->tokens) : std::pair(-1, int64_t{0});
  };
  EXPECT_EQ(found({1, 2, 3, 5}), std::pair(full, int64_t{3}));
  EXPECT_EQ(found({1, 2, 9, 9}), std::pair(part, int64_t{3}));
  EXPECT_EQ(found({1, 2, 3}), std::pair(full, int64_t{3}));
  EXPECT_EQ(found({1}).second, 1);
  EXPECT_EQ(found({2, 2}).second, 0);
}

TEST(PagePool, OfTwoEqualPagesOneIsFound) {
  PagePool pool(2, 1);
  const int32_t a = *pool.take(), b = *pool.take();
  EXPECT_EQ(pool.publish(a, kRoot, Tokens{1}), pool.publish(b, kRoot, Tokens{1}));
  EXPECT_EQ(pool.find(kRoot, Tokens{1})->page, a);
}

}  // namespace
}  // namespace tq
