// How fast a model runs here, beside how fast memory can be read in the same run.
#pragma once

#include <optional>
#include <string>

#include "base/context.h"
#include "graph/network.h"

namespace tq {

struct SpeedOptions {
  int64_t prompt_tokens = 512;
  int64_t answer_tokens = 64;  // one after another
  int64_t depth = 0;           // tokens that are in the context already, before the prompt and before the answer; not timed
  int repetitions = 3;         // of which the median counts
};

// Medians of the repetitions. A token is everything from its id to its logits and the choice of the next.
struct SpeedResult {
  double prompt_tokens_per_second = 0;
  double decode_tokens_per_second = 0;
  uint64_t bytes_per_token = 0;  // of weights
  double decode_bytes_per_second = 0;
  double read_bytes_per_second = 0;  // a loop that only reads, on the same threads, measured between the repetitions
  uint64_t logits_hash = 0;          // of the logits of every decoded token; the same in all repetitions
};

// Errors: kUsage when the model's context is too short. source: the model, for messages.
Status check_speed(const ModelSpec& spec, const std::string& source, const SpeedOptions& options);
// Errors: those, kNoResource, kInterrupted.
Result<SpeedResult> measure_speed(Network& network, const SpeedOptions& options, const Context& context);

// Bytes a second of a loop that reads memory larger than the caches with every thread and does nothing else.
class ReadLoop {
 public:
  explicit ReadLoop(ThreadPool& threads, int64_t bytes = int64_t{512} << 20);
  double bytes_per_second();  // of one pass

 private:
  ThreadPool& threads_;
  Buffer<uint64_t> words_;
  std::vector<uint64_t> sums_;  // one a thread, so that the reading cannot be left out
};

// How fast the memory that a backend works in can be read.
class ReadMeter {
 public:
  ReadMeter(Backend& backend, ThreadPool& threads);
  double bytes_per_second();  // one more measurement; afterwards no cache holds what was there before

 private:
  Backend& backend_;
  std::optional<ReadLoop> loop_;  // the host's
};

}  // namespace tq
