// What every long operation is given: threads, where messages and progress go, the seed, and whether to stop.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/stage_times.h"
#include "base/thread_pool.h"

namespace tq {

// Receives messages and progress; the program shows them, a library user may drop them. Called from one thread at a time.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void note(std::string_view message) { (void)message; }
  virtual void warn(std::string_view message) { (void)message; }
  // `done` of `total` units of the named step. done == total ends the step.
  virtual void progress(std::string_view step, int64_t done, int64_t total) { (void)step, (void)done, (void)total; }
};

struct Context {
  ThreadPool& threads;
  Listener& listener;
  uint64_t seed = 0;
  const std::atomic<bool>* stop = nullptr;  // set by Ctrl-C; long work looks at it between steps and returns kInterrupted
  StageTimes* times = nullptr;              // where the seconds of its parts are counted, if they are

  bool stopped() const { return stop && stop->load(std::memory_order_relaxed); }
};

}  // namespace tq
