// What a loss feels at the outputs of linears: the squared gradients of -log p by them, with the labels drawn from the model itself, so
// that their mean is the Fisher information (Kunstner et al. 2019). The input second moment weighted by them measures the loss of a
// rounding better than the plain one (GuidedQuant, Kim et al. 2025).
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "graph/network.h"
#include "graph/training_pass.h"
#include "token/tokenizer.h"

namespace tq {

// Of one linear; of a stack of experts, everything together.
struct OutputGradients {
  std::vector<float> token;  // [sequences * T]: mean over the rows of the squared gradient, as each token's sum of the losses feels it
  std::vector<float> row;    // [R], of experts [E, R]: sum over the tokens of the squared gradient

  bool operator==(const OutputGradients&) const = default;
};
using Gradients = std::map<std::string, OutputGradients>;  // by the linear's name, the head's among them

// Sequences whose hidden states fit, one at least. Of gradients, whose waves are steps of a job, kWaveBytes is what is lost when a run is
// stopped; it does not depend on the machine.
constexpr uint64_t kWaveBytes = uint64_t{256} << 20;
int64_t sequences_per_wave(const ModelSpec& spec, int64_t length, uint64_t bytes = kWaveBytes);

// Keeps a model's weights on a device, so that pass after pass finds them loaded. Nothing where the memory is the host's, or where the
// weights would take more than half of what the device has free.
std::optional<Network> keep_loaded(const Model& model, Backend& backend);

// One wave. The draws depend on the seed and on the sequences' places, which count from first_sequence. Equal on any number of threads.
// Errors: those of training_pass.
struct GradientRequest {
  std::span<const std::vector<TokenId>> sequences;  // all of equal length
  int64_t first_sequence = 0;
  uint64_t seed = 0;
};
Result<Gradients> measure_gradients(const Model& model, Backend& backend, const Context& context, const GradientRequest& request);

// Appends the tokens of a later wave, adds its rows.
void append(Gradients& all, const Gradients& wave);

// By tap point: a weight for every token, of mean 1. Each linear's token gradients are clipped at 8 times their mean, scaled to mean 1 and
// summed over the linears that read the tap point.
using TokenWeights = std::map<std::string, std::vector<float>>;
TokenWeights token_weights(const ModelSpec& spec, const Gradients& gradients);

// `wanted` of `count` sequences, spread evenly. [count]
std::vector<bool> spread_sequences(int64_t count, int64_t wanted);
// Weights of the measured sequences become weights of all: a token of another sequence counts as the mean, 1. length: tokens of a sequence.
TokenWeights with_means(const TokenWeights& weights, const std::vector<bool>& is_measured, int64_t length);

}  // namespace tq
