// Sums up what the tap points see of sequences that run through a layer.
#pragma once

#include <set>
#include <string>

#include "graph/forward.h"
#include "quantize/gradients.h"
#include "quantize/options.h"
#include "quantize/statistics.h"

namespace tq {

class TapMeter {
 public:
  // weights: of every token at the tap points; null: all 1. length: tokens of a sequence. taps: those that count; null: all.
  struct Settings {
    Backend& backend;
    ThreadPool& threads;
    const QuantizeOptions& options;
    const TokenWeights* weights = nullptr;
    int64_t length = 0;
    const std::set<std::string>* taps = nullptr;
  };
  TapMeter(const Settings& settings, Statistics& statistics)
      : settings_(settings), statistics_(statistics), products_(settings.threads, settings.backend.isa()) {}

  // For forward passes of sequence `sequence`, from its first token. Linears share a tap; it is called once a tap, and an expert of a
  // mixture, whose tokens count alike.
  TapSink sink(int64_t sequence);
  // After the last one. Second moments stay on a device that has much more room than they take. Errors: kNoResource, the device's memory.
  Status finish();

 private:
  void add(int64_t sequence, const std::string& tap, const float* input, int64_t tokens, int64_t columns, int64_t expert);
  InputStatistics* find(const std::string& tap, int64_t columns, int64_t expert);
  void measure_values(InputStatistics& found, const float* input, int64_t sequence, int64_t tokens, int64_t columns, const float* weight);
  Backend* device() const { return settings_.backend.quantizer() ? &settings_.backend : nullptr; }

  Settings settings_;
  Statistics& statistics_;
  FloatProducts products_;
  Status status_;
  std::vector<float> copy_;  // of a device's input, for what is measured on the host
};

}  // namespace tq
