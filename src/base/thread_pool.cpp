#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <sched.h>

#include "base/check.h"

namespace tq {
namespace {

// Waiting threads poll for about 50 us before they sleep: a decoded token has some 90 stages, and waking costs more than most of them. Not
// where threads share a processor: one that polls there keeps it from one that has work.
constexpr int kSpinRounds = 20000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int available_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable wake;
  int spin_rounds = kSpinRounds;        // set before the first thread begins
  std::atomic<uint64_t> generation{0};  // counts jobs; a change is the signal to start
  std::atomic<int> sleepers{0};
  std::atomic<int> running{0};  // workers that have not finished the present job
  std::atomic<bool> stop{false};
  std::atomic<bool> busy{false};

  std::atomic<int64_t> next{0};
  int64_t count = 0;
  int64_t grain = 1;
  const std::function<void(int64_t, int64_t, int)>* work = nullptr;
  std::exception_ptr error;  // the first; under the mutex

  void drain(int thread) noexcept {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      try {
        (*work)(begin, std::min(begin + grain, count), thread);
      } catch (...) {
        next.store(count, std::memory_order_relaxed);
        std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
    }
  }

  void wait_for_job(uint64_t seen) {
    for (int round = 0; round < spin_rounds; ++round) {
      if (generation.load(std::memory_order_acquire) != seen) return;
      relax();
    }
    std::unique_lock lock(mutex);
    sleepers.fetch_add(1);
    wake.wait(lock, [&] { return generation.load() != seen; });
    sleepers.fetch_sub(1);
  }

  void worker(int thread) {
    uint64_t seen = 0;
    for (;;) {
      wait_for_job(seen);
      ++seen;
      if (stop.load()) return;
      drain(thread);
      running.fetch_sub(1, std::memory_order_release);
    }
  }

  void announce() {
    generation.fetch_add(1);
    if (sleepers.load() > 0) {
      std::lock_guard lock(mutex);  // a thread between its last look and its sleep holds the mutex
      wake.notify_all();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  const int processors = available_processors(), total = threads > 0 ? threads : processors;
  if (total > processors) state_->spin_rounds = 0;
  state_->threads.reserve(static_cast<size_t>(total - 1));  // so that nothing but a thread can be missing below
  try {
    for (int i = 1; i < total; ++i) state_->threads.emplace_back([state = state_.get(), i] { state->worker(i); });
  } catch (const std::system_error&) {  // the system gives no more: those that are there do all
  }
}

ThreadPool::~ThreadPool() {
  state_->stop = true;
  state_->announce();
  for (auto& thread : state_->threads) thread.join();
}

int ThreadPool::size() const { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::run(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t, int)>& work) {
  if (count <= 0) return;
  TQ_CHECK(grain > 0);
  State& state = *state_;
  TQ_CHECK(!state.busy.exchange(true));
  state.count = count;
  state.grain = grain;
  state.work = &work;
  state.next.store(0, std::memory_order_relaxed);
  if (!state.threads.empty() && count > grain) {
    state.running.store(static_cast<int>(state.threads.size()), std::memory_order_relaxed);
    state.announce();
    state.drain(0);
    for (int round = 0; state.running.load(std::memory_order_acquire) > 0; ++round) {
      if (round < state.spin_rounds) relax();
      else std::this_thread::yield();
    }
  } else {
    state.drain(0);
  }
  state.busy.store(false);
  if (state.error) std::rethrow_exception(std::exchange(state.error, nullptr));
}

void run_on(ThreadPool* threads, int64_t count, int64_t grain, const std::function<void(int64_t begin, int64_t end, int thread)>& work) {
  if (threads) threads->run(count, grain, work);
  else if (count > 0) work(0, count, 0);
}

}  // namespace tq
