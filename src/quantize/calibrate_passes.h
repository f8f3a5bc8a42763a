// The two streams of block-wise calibration: hidden states of all calibration sequences in the original model and in the quantized prefix,
// before the same layer, and the passes through that layer. Everything stays in the backend's memory.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "graph/backward.h"
#include "quantize/calibrate_plan.h"
#include "quantize/gradients.h"
#include "quantize/misfit.h"
#include "quantize/statistics.h"

namespace tq {

struct CalibrationRequest {
  const Model& model;
  const QuantizePlan& plan;
  std::span<const std::vector<TokenId>> sequences;  // all of equal length
  std::span<const int> text;                        // that each sequence comes from, from 0
  const TokenWeights* weights = nullptr;            // at the tap points, or null
  std::vector<bool> is_measured = {};               // which sequences' weights are more than the mean; empty: all
};

// What is wrong at the output of a layer on held-out sequences: the weighted mean squared error of a token, by text and of all.
struct BlockErrors {
  std::vector<double> text;  // 0 where nothing of a text is held out
  double all = 0;

  // Whether no text is worse than in `other` by more than 2 %.
  bool is_no_worse_anywhere(const BlockErrors& other) const;
};

class CalibrationPasses {
 public:
  // Embeds the sequences. Errors: kNoResource for the hidden states of all of them, twice.
  static Result<CalibrationPasses> create(const CalibrationRequest& request, Backend& backend, const Context& context);

  // To be called before anything is asked of a layer. Errors: kNoResource.
  Status begin(int64_t layer);
  // The original stream becomes what the layer makes of it: the targets of what follows.
  Status make_targets(const LayerWeights& weights);
  // The quantized stream becomes what the layer makes of it.
  Status advance(const LayerWeights& weights);
  // Statistics of what the taps see of the quantized stream; null: all of them. With a misfit, whose place is the only tap: of the training
  // sequences alone, since the misfit has the moment of the others.
  Status measure(const LayerWeights& weights, const std::set<std::string>* taps, Statistics& statistics, MisfitMeter* misfit = nullptr);
  // Where a misfit can be measured: sequences are held out, and the block's result is added to the hidden state as it is.
  bool can_measure(const MisfitPlace& place) const;
  // After the last layer, of the quantized stream: what the head sees.
  Status measure_head(Statistics& statistics);

  // Whether no sequence is both trained on and judged by.
  bool judges_apart() const { return split_.training.size() + split_.held_out.size() == request_.sequences.size(); }
  // Tokens of training sequences count so many times as much as make_targets weighed them, by the text that they are from. [texts]
  void weigh_texts(const std::vector<double>& factor);
  // Of the first `tokens` tokens of every held-out sequence; 0: of all.
  Result<BlockErrors> held_out_errors(const LayerWeights& weights, int64_t tokens = 0);
  // Gradients of scale * (weighted squared error of the first `tokens` tokens of a training sequence, summed) to the sinks; 0: of all.
  struct Training {
    int64_t sequence = 0, tokens = 0;
    double scale = 1;
  };
  Status gradients(const LayerWeights& weights, const Training& training, const GradientSinks& sinks);

  const CalibrationRequest& request() const { return request_; }
  const CalibrationSplit& split() const { return split_; }
  int64_t length() const { return length_; }
  Backend& backend() const { return *backend_; }
  const Context& context() const { return *context_; }
  int64_t layer() const { return layer_; }

 private:
  CalibrationPasses(const CalibrationRequest& request, Backend& backend, const Context& context);
  Status allocate();
  Status allocate_stream(Memory& stream);
  Status allocate_original();
  void weigh_tokens();
  void set_weights(std::vector<float> weight);
  // The weights of measured sequences, [sequences * T], take the place of those in `weight`.
  void replace_measured(const std::vector<float>& measured, std::vector<float>& weight) const;
  // A forward pass of one sequence for statistics or a misfit.
  Status measure_one(const LayerWeights& weights, int64_t sequence, std::string_view last, const TapSink& statistics, MisfitMeter* misfit);
  // Of the first `tokens` tokens (0: of all), up to the tap point `last` unless that is empty.
  struct Forward {
    int64_t tokens = 0;
    const TapSink* taps = nullptr;
    std::string_view last;
  };
  Status forward(const LayerWeights& weights, float* hidden, const Forward& how);
  int64_t first_tokens(int64_t wanted) const { return wanted > 0 ? std::min(wanted, length_) : length_; }
  // A copy of the quantized stream's hidden states, [T, H].
  float* copied(int64_t sequence);
  float* quantized(int64_t sequence) { return quantized_.as<float>() + sequence * floats_; }
  float* target(int64_t sequence) { return target_.as<float>() + sequence * floats_; }
  float* original_input(size_t block, int64_t sequence) { return inputs_[block].as<float>() + sequence * floats_; }
  float* original_hidden(size_t block, int64_t sequence) {
    return block + 1 < hidden_.size() ? hidden_[block + 1].as<float>() + sequence * floats_ : target(sequence);
  }
  const std::vector<Block>& blocks() const { return spec().layers[static_cast<size_t>(layer_)]; }
  const float* token_weight(int64_t sequence) { return token_weight_.as<float>() + sequence * length_; }
  const ModelSpec& spec() const { return request_.model.spec; }
  int64_t count() const { return static_cast<int64_t>(request_.sequences.size()); }
  KvView kv() const { return kv_->layer(layer_); }

  CalibrationRequest request_;
  Backend* backend_;
  const Context* context_;
  CalibrationSplit split_;
  int64_t length_, floats_;  // of a sequence: tokens, floats of hidden states
  int64_t layer_ = -1;
  size_t texts_ = 0;
  bool compensates_;
  std::vector<bool> is_held_out_;
  Memory quantized_, target_;  // [sequences, T, H]
  // Of the original, if it compensates: what each block's norm gives, and the hidden state before each block but the first. [sequences, T,
  // H]
  std::vector<Memory> inputs_, hidden_;
  TokenWeights tap_weights_;   // of what compensates: of the tokens at the taps of this layer
  std::vector<float> weight_;  // [sequences * T], by make_targets
  Memory token_weight_;        // [sequences, T], as they count now
  Memory scratch_, gradient_;  // [T, H]
  std::optional<KvCache> kv_;
  Workspace workspace_;
  BackwardWorkspace backward_;
};

}  // namespace tq
