// How fast many requests are answered at once.
#pragma once

#include <string>

#include "base/context.h"
#include "graph/network.h"

namespace tq {

struct StreamsOptions {
  int64_t streams = 1;  // requests, all submitted at the beginning
  int64_t prompt_tokens = 512;
  int64_t answer_tokens = 64;               // of each, and steps in which all answer together, of which two are not timed
  int64_t prompt_chunk = kHostPromptChunk;  // tokens of prompts in a step
  int repetitions = 3;                      // of which the median counts
  Precision precision = Precision::kInt8;
};

struct StreamsResult {
  double tokens_per_second = 0;         // of all answers, from the first submission to the last token, prompts included
  double decode_tokens_per_second = 0;  // of all answers, in steps in which every stream answers; 0: answers are too short
  double first_token_seconds = 0;       // from submission to first token, median of the streams
  double last_first_token_seconds = 0;  // that of the stream that waited longest
  uint64_t kv_bytes = 0;                // of the pages that the streams need
  uint64_t memory_bytes = 0;            // of a device, as it says, with everything; 0: the host's
  uint64_t footprint_bytes = 0;         // what a card was expected to say (graph/footprint.h)
};

// Errors: kUsage when the model's context is too short. source: the model, for messages.
Status check_streams(const ModelSpec& spec, const std::string& source, const StreamsOptions& options);
// Through an engine, with random prompts that share no beginning. Errors: those, kNoResource, kInterrupted, kBadInput for logits that are
// no numbers.
Result<StreamsResult> measure_streams(Network& network, const StreamsOptions& options, const Context& context);

}  // namespace tq
