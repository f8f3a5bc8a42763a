// Inside the backward pass: each kind of block forward with everything kept, and back.
#pragma once

#include <string>

#include "graph/backward.h"

namespace tq {

// What the operations of one call share.
struct BackwardStep {
  const ModelSpec& spec;
  Backend& backend;
  Training& training;
  int64_t tokens;
  KvView kv;
  const GradientSinks* sinks;
  Workspace* shared;
  bool searches = false;   // for a gradient that is no finite number
  std::string not_finite;  // the first linear at which one was found
  Stretch whole = {.tokens = tokens};

  // Calls the sink, and searches where that is wanted.
  void report(const LinearGradient& gradient);
  void norm(const Norm& norm, const DeviceVector& weight, const float* input, int64_t count, float* output) const;
  // gradient[count, width] of the output becomes that of the input, in place; adds to weight_sum[width] unless null.
  void norm_back(const Norm& norm, const DeviceVector& weight, const float* input, int64_t count, float* gradient, float* weight_sum) const;
  // norm_back with the sink called.
  void norm_back_reported(const Norm& norm, const DeviceVector& weight, const float* input, float* gradient) const;
  bool wants_norms() const { return sinks && sinks->norm; }
  // Memory for the gradient of a norm's weight, zeros; null without a sink.
  float* norm_sum(const Norm& norm) const;
};

// One linear reported, and the gradient of its input (added when `accumulate`).
struct LinearBack {
  const Linear& linear;
  const LinearWeight& weight;
  const float* input;     // [T, C]
  const float* output;    // [T, R]
  const float* gradient;  // [T, R]
  float* input_gradient;  // [T, C]
  bool accumulate = false;
};
void linear_back(BackwardStep& step, const LinearBack& args);

// normed[T, H] -> result[T, H]; fills the trace.
void forward_block(BackwardStep& step, const Attention& op, const BlockWeights& weights, const float* normed, float* result,
                   BackwardWorkspace::BlockTrace& trace);
void forward_block(BackwardStep& step, const Mlp& op, const BlockWeights& weights, const float* normed, float* result,
                   BackwardWorkspace::BlockTrace& trace);
void forward_block(BackwardStep& step, const Moe& op, const BlockWeights& weights, const float* normed, float* result,
                   BackwardWorkspace::BlockTrace& trace);

struct BlockBack {
  const BlockWeights& weights;
  const float* normed;    // [T, H]
  const float* result;    // [T, H]
  const float* gradient;  // [T, H], of the result
  float* input_gradient;  // [T, H], of normed: overwritten
  BackwardWorkspace::BlockTrace& trace;
  Workspace& shared;
};
void backward_block(BackwardStep& step, const Attention& op, const BlockBack& args);
void backward_block(BackwardStep& step, const Mlp& op, const BlockBack& args);
void backward_block(BackwardStep& step, const Moe& op, const BlockBack& args);

// Slots of a block's trace and of the shared memory.
namespace trace_slot {
enum : size_t {
  kInput,
  kNormed,
  kResult,
  kProjected,
  kRotated,
  kMixed,
  kGateUp,
  kActivated,
  kScores,
  kExpertInput,
  kExpertResult,
  kExpertRows,
  kExpertWeights
};
}
namespace shared_slot {
enum : size_t {
  kInputGradient,
  kResultGradient,
  kProjectedGradient,
  kMixedGradient,
  kGateUpGradient,
  kActivatedGradient,
  kScoresGradient,
  kExpertGradient,
  kExpertInputGradient,
  kNormSum,
  kEntering,
  kNormed,
  kLogits,
  kPlainLogits,
  kLogitsGradient
};
}

}  // namespace tq
