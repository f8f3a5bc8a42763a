#include "quantize/gradients.h"

#include <algorithm>

#include "kernels/device_quantizer.h"
#include "quantize/drawn_labels.h"

namespace tq {
namespace {

constexpr double kWeightClip = 8.0;  // times the mean

class Wave {
 public:
  Wave(const Model& model, Backend& backend, const Context& context, const GradientRequest& request)
      : model_(model),
        backend_(backend),
        context_(context),
        request_(request),
        labels_(backend, model.spec, request.seed, request.first_sequence),
        scratch_(backend) {
    length_ = static_cast<int64_t>(request.sequences[0].size());
    for (const Linear* linear : linears(model.spec)) place(*linear);
    place(model.spec.head);
  }

  Result<Gradients> run() {
    TQ_ASSIGN(memory_, backend_.allocate(static_cast<uint64_t>(floats_) * sizeof(float)));
    backend_.zero(memory_.as<float>(), floats_);
    const TrainingPassArgs args{.sequences = request_.sequences,
                                .loss = [this](int64_t sequence, const LossChunk& chunk) { labels_.loss(sequence, chunk); },
                                .linear = [this](int64_t sequence, const LinearGradient& gradient) { add(sequence, gradient); },
                                .norm = {},
                                .embedded = {}};
    TQ_TRY(training_pass(model_, backend_, context_, args));
    return gathered();
  }

 private:
  // Where a linear's sums lie in the backend's memory: tokens [sequences * T], then rows [R], of experts [E, R].
  struct Place {
    int64_t token, row, end;
  };

  void place(const Linear& linear) {
    const int64_t row = floats_ + static_cast<int64_t>(request_.sequences.size()) * length_;
    const int64_t end = row + std::max<int64_t>(1, linear.experts) * linear.out;
    places_[linear.name] = {floats_, row, end};
    floats_ = end;
  }

  Gradients gathered() const {
    std::vector<float> all(static_cast<size_t>(floats_));
    backend_.download(all.data(), memory_.as<float>(), all.size() * sizeof(float));
    const auto at = [&](int64_t i) { return all.begin() + static_cast<std::ptrdiff_t>(i); };
    Gradients out;
    for (const auto& [name, place] : places_) out[name] = {{at(place.token), at(place.row)}, {at(place.row), at(place.end)}};
    return out;
  }

  void add(int64_t sequence, const LinearGradient& gradient) {
    const Place& place = places_.at(gradient.linear.name);
    float* token = memory_.as<float>() + place.token + sequence * length_;
    float* row = memory_.as<float>() + place.row + gradient.expert * gradient.linear.out;
    SquaresArgs squares{.gradient = gradient.gradient, .row = row, .tokens = gradient.tokens, .rows = gradient.linear.out};
    if (gradient.linear.experts > 0) {  // a token may have several
      squares.token = scratch_.floats(0, gradient.tokens);
      float* at = scratch_.floats(1, gradient.tokens);
      backend_.upload(at, gradient.positions.data(), gradient.positions.size_bytes());
      backend_.training()->squares(squares);
      return backend_.scatter_add(
          {.input = squares.token, .row = reinterpret_cast<const int32_t*>(at), .output = token, .count = gradient.tokens, .width = 1});
    }
    squares.token = token + (gradient.positions.empty() ? 0 : gradient.positions[0]);  // of the head: consecutive
    backend_.training()->squares(squares);
  }

  const Model& model_;
  Backend& backend_;
  const Context& context_;
  const GradientRequest& request_;
  const DrawnLabels labels_;
  int64_t length_ = 0, floats_ = 0;
  std::map<std::string, Place> places_;
  Memory memory_;
  Workspace scratch_;
};

// Scaled to mean 1 after clipping at kWeightClip times that mean, so that no fewer than a kWeightClip-th of the tokens decide: all later
// tokens look at the first of a sequence, which would have 95 % of the weight of some values. All zeros stay so.
std::vector<double> normalised(const std::vector<float>& token) {
  std::vector<double> out(token.begin(), token.end());
  for (int round = 0; round < 60; ++round) {  // the mean falls with the clip, and converges
    double sum = 0;
    for (const double each : out) sum += each;
    if (!(sum > 0)) return out;
    const double scale = static_cast<double>(out.size()) / sum;
    bool is_clipped = false;
    for (double& each : out) {
      each *= scale;
      is_clipped |= each > kWeightClip * (1 + 1e-9);
      each = std::min(each, kWeightClip);
    }
    if (!is_clipped) return out;
  }
  return out;
}

}  // namespace

int64_t sequences_per_wave(const ModelSpec& spec, int64_t length, uint64_t bytes) {
  return std::max<int64_t>(1, static_cast<int64_t>(bytes / training_bytes(spec, length)));
}

std::optional<Network> keep_loaded(const Model& model, Backend& backend) {
  if (backend.is_host() || !backend.quantizer()) return {};
  constexpr uint64_t kBytes = 2;  // of a weight, at most: halves
  uint64_t needed = 0;
  for (const Linear* linear : linears(model.spec))
    needed += static_cast<uint64_t>(std::max<int64_t>(1, linear->experts) * linear->out * linear->in) * kBytes;
  if (needed > backend.quantizer()->free_bytes() / 2) return {};
  auto network = Network::create(model, backend);
  if (!network) return {};
  return std::move(*network);
}

Result<Gradients> measure_gradients(const Model& model, Backend& backend, const Context& context, const GradientRequest& request) {
  TQ_CHECK(!request.sequences.empty());
  return Wave(model, backend, context, request).run();
}

void append(Gradients& all, const Gradients& wave) {
  for (const auto& [name, gradients] : wave) {
    OutputGradients& own = all[name];
    own.token.insert(own.token.end(), gradients.token.begin(), gradients.token.end());
    own.row.resize(gradients.row.size());
    for (size_t r = 0; r < own.row.size(); ++r) own.row[r] += gradients.row[r];
  }
}

TokenWeights token_weights(const ModelSpec& spec, const Gradients& gradients) {
  std::map<std::string, std::vector<double>> sums;
  const auto add = [&](const Linear& linear) {
    const std::vector<double> own = normalised(gradients.at(linear.name).token);
    std::vector<double>& sum = sums[linear.tap];
    sum.resize(own.size());
    for (size_t t = 0; t < own.size(); ++t) sum[t] += own[t];
  };
  for (const Linear* linear : linears(spec)) add(*linear);
  add(spec.head);
  TokenWeights out;
  for (const auto& [tap, sum] : sums) {
    double total = 0;
    for (const double each : sum) total += each;
    std::vector<float>& weight = out[tap];
    for (const double each : sum) weight.push_back(total > 0 ? static_cast<float>(each * static_cast<double>(sum.size()) / total) : 1.0f);
  }
  return out;
}

std::vector<bool> spread_sequences(int64_t count, int64_t wanted) {
  std::vector<bool> out(static_cast<size_t>(count), wanted >= count);
  for (int64_t i = 0; i < wanted && wanted < count; ++i) out[static_cast<size_t>((2 * i + 1) * count / (2 * wanted))] = true;
  return out;
}

TokenWeights with_means(const TokenWeights& weights, const std::vector<bool>& is_measured, int64_t length) {
  TokenWeights out;
  for (const auto& [tap, measured] : weights) {
    std::vector<float>& all = out[tap];
    all.assign(is_measured.size() * static_cast<size_t>(length), 1.0f);
    auto from = measured.begin();
    for (size_t i = 0; i < is_measured.size(); ++i) {
      if (!is_measured[i]) continue;
      std::copy_n(from, length, all.begin() + static_cast<std::ptrdiff_t>(i) * length);
      from += length;
    }
  }
  return out;
}

}  // namespace tq
