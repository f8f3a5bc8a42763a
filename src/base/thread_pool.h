// A persistent pool that splits index ranges. Results never depend on the number of threads if the work items are independent.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace tq {

class ThreadPool {
 public:
  // threads <= 0: one per processor that this process may use. The caller's thread is one of them.
  // Where the system has no more to give there are fewer: size() tells.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // Calls work(begin, end, thread) for disjoint ranges that cover [0, count), each of `grain`s but the last; thread is in [0, size()).
  // Ranges are claimed as threads come. Returns when all are done, then throws what work threw first. Work must not call run.
  void run(int64_t count, int64_t grain, const std::function<void(int64_t begin, int64_t end, int thread)>& work);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The same on the threads, or on the caller's alone where there are none (null).
void run_on(ThreadPool* threads, int64_t count, int64_t grain, const std::function<void(int64_t begin, int64_t end, int thread)>& work);

}  // namespace tq
