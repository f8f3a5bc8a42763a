#include "base/thread_pool.h"

#include <pthread.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

namespace tq {
namespace {

TEST(ThreadPool, CoversEveryIndexOnceForAnyThreadCountAndGrain) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const int64_t grain : {1, 7, 1000}) {
      std::vector<std::atomic<int>> hits(101);
      pool.run(101, grain, [&](int64_t begin, int64_t end, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, pool.size());
        EXPECT_EQ(begin % grain, 0);
        for (int64_t i = begin; i < end; ++i) hits[static_cast<size_t>(i)]++;
      });
      for (const auto& hit : hits) EXPECT_EQ(hit.load(), 1);
    }
  }
}

TEST(ThreadPool, RunsNothingForAnEmptyRange) {
  ThreadPool pool(2);
  pool.run(0, 1, [](int64_t, int64_t, int) { FAIL(); });
}

TEST(ThreadPool, ThrowsWhatWorkThrowsAndGoesOnWorking) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 100; ++round) {
      const auto fails = [&](int64_t begin, int64_t, int) {
        if (begin % 5 == round % 5) throw std::runtime_error("broken");
      };
      EXPECT_THROW(pool.run(20, 1, fails), std::runtime_error);
      std::atomic<int64_t> sum = 0;
      pool.run(20, 1, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
      EXPECT_EQ(sum.load(), 20);
    }
  }
}

TEST(ThreadPool, SurvivesManyShortRuns) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum = 0;
  for (int i = 0; i < 5000; ++i) pool.run(3, 1, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
  EXPECT_EQ(sum.load(), 15000);
}

TEST(ThreadPool, MoreThreadsThanProcessorsDoEverythingToo) {
  const int threads = 2 * ThreadPool().size() + 1;
  ThreadPool pool(threads);
  EXPECT_EQ(pool.size(), threads);
  constexpr int kRuns = 50;
  std::atomic<int64_t> sum = 0;
  for (int i = 0; i < kRuns; ++i) pool.run(threads, 1, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
  EXPECT_EQ(sum.load(), int64_t{kRuns} * threads);
}

// As long as it lives no thread can be had: a new one asks for a stack larger than the address space.
class NoMoreThreads {
 public:
  NoMoreThreads() {
    pthread_getattr_default_np(&before_);
    pthread_attr_t huge;
    pthread_attr_init(&huge);
    pthread_attr_setstacksize(&huge, size_t{1} << 58);
    pthread_setattr_default_np(&huge);
    pthread_attr_destroy(&huge);
  }
  NoMoreThreads(const NoMoreThreads&) = delete;
  NoMoreThreads& operator=(const NoMoreThreads&) = delete;
  ~NoMoreThreads() {
    pthread_setattr_default_np(&before_);
    pthread_attr_destroy(&before_);
  }

 private:
  pthread_attr_t before_;
};

TEST(ThreadPool, WithoutThreadsOfTheSystemTheCallersDoesAll) {
  const NoMoreThreads limit;
  ThreadPool pool(4);
  EXPECT_EQ(pool.size(), 1);
  int64_t sum = 0;
  pool.run(20, 1, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
  EXPECT_EQ(sum, 20);
}

}  // namespace
}  // namespace tq
