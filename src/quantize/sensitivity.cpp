#include "quantize/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/grid/layout.h"
#include "kernels/device_quantizer.h"
#include "quantize/drawn_labels.h"
#include "quantize/rates.h"

namespace tq {
namespace {

// Of hidden states. On a device few waves, since each has all candidates loaded again.
uint64_t wave_bytes(const SensitivityRequest& request, Backend& backend) {
  constexpr uint64_t kMostOfADevice = uint64_t{4} << 30, kShareOfFree = 8;
  if (request.wave_bytes > 0) return request.wave_bytes;
  if (backend.is_host() || !backend.quantizer()) return kWaveBytes;
  return std::clamp(backend.quantizer()->free_bytes() / kShareOfFree, kWaveBytes, kMostOfADevice);
}

// Of every linear the squared gradients of its rows, and for each candidate what its rows are off, squared and weighted by the tokens'
// gradients: [1 + candidates, experts * R], added up over the waves.
using ErrorSums = std::map<std::string, std::vector<float>>;

// Some sequences forward and back through the standing model.
class Wave {
 public:
  Wave(Backend& backend, const SensitivityRequest& request, std::span<const std::vector<TokenId>> sequences, int64_t first)
      : backend_(backend),
        request_(request),
        sequences_(sequences),
        labels_(backend, request.standing.spec, request.seed, first),
        memory_(backend) {
    for (const Linear* linear : rated_linears(request.standing.spec)) place(*linear);
  }

  // Adds to the sums what this wave's tokens say.
  Status run(const Context& context, ErrorSums& sums) {
    TQ_ASSIGN(sums_, backend_.allocate(static_cast<uint64_t>(floats_) * sizeof(float)));
    backend_.zero(sums_.as<float>(), floats_);
    TQ_TRY(training_pass(request_.standing, backend_, context,
                         {.sequences = sequences_,
                          .loss = [this](int64_t sequence, const LossChunk& chunk) { labels_.loss(sequence, chunk); },
                          .linear = [this](int64_t, const LinearGradient& gradient) { add(gradient); },
                          .norm = {},
                          .embedded = {}}));
    TQ_TRY(Status(status_));
    collect(sums);
    return {};
  }

 private:
  // Matrices of a linear of the layer at hand: the sequences of a wave come one after another, so that they are prepared once a wave.
  struct Prepared {
    std::unique_ptr<Matrix> original;
    std::vector<std::unique_ptr<Matrix>> candidates;
  };
  // Where a linear's sums lie.
  struct Place {
    int64_t first = 0, rows = 0;
  };

  void place(const Linear& linear) {
    const int64_t rows = std::max<int64_t>(1, linear.experts) * linear.out;
    places_[linear.name] = {floats_, rows};
    floats_ += static_cast<int64_t>(1 + request_.candidates.size()) * rows;
  }

  void add(const LinearGradient& gradient) {
    if (status_ && places_.contains(gradient.linear.name)) status_ = try_add(gradient);  // neither of the head nor of routers
  }

  Status try_add(const LinearGradient& gradient) {
    TQ_ASSIGN(const Prepared* prepared, prepare(gradient.linear, gradient.expert));
    const Place& place = places_.at(gradient.linear.name);
    const int64_t rows = gradient.linear.out, tokens = gradient.tokens;
    float* sums = sums_.as<float>() + place.first + gradient.expert * rows;
    const float* roots = roots_of(gradient, sums);
    float* original = memory_.floats(kOriginal, tokens * rows);
    float* rounded = memory_.floats(kRounded, tokens * rows);
    multiply(*prepared->original, gradient, original);
    for (size_t c = 0; c < prepared->candidates.size(); ++c) {
      multiply(*prepared->candidates[c], gradient, rounded);
      Training& training = *backend_.training();
      training.squared_error(
          {.output = rounded, .target = original, .weight = roots, .gradient = rounded, .tokens = tokens, .width = rows, .scale = 0.5f});
      training.squares({.gradient = rounded, .row = sums + static_cast<int64_t>(1 + c) * place.rows, .tokens = tokens, .rows = rows});
    }
    return {};
  }

  Result<const Prepared*> prepare(const Linear& linear, int64_t expert) {
    const std::string layer = linear.name.substr(0, linear.name.find('.', std::string("model.layers.").size()));
    if (layer != layer_) prepared_.clear(), layer_ = layer;
    const auto [found, is_new] = prepared_.try_emplace({linear.name, expert});
    if (!is_new) return &found->second;
    const std::string name = linear.name + ".weight";
    TQ_ASSIGN(found->second.original, backend_.prepare(*request_.original.find(name), expert));
    for (const auto& [rate, model] : request_.candidates) {
      TQ_ASSIGN(auto matrix, backend_.prepare(*model->find(name), expert));
      found->second.candidates.push_back(std::move(matrix));
    }
    return &found->second;
  }

  void multiply(const Matrix& matrix, const LinearGradient& gradient, float* output) {
    const LinearJob job{&matrix, nullptr, output};
    backend_.linear({.input = gradient.input, .tokens = gradient.tokens, .jobs = {&job, 1}, .precision = Precision::kTraining});
  }

  // sqrt(s_t), [T]; adds the gradient's squares to its rows.
  const float* roots_of(const LinearGradient& gradient, float* rows) {
    float* squares = memory_.floats(kSquares, gradient.tokens);
    backend_.training()->squares(
        {.gradient = gradient.gradient, .token = squares, .row = rows, .tokens = gradient.tokens, .rows = gradient.linear.out});
    roots_.resize(static_cast<size_t>(gradient.tokens));
    backend_.download(roots_.data(), squares, roots_.size() * sizeof(float));
    for (float& each : roots_) each = std::sqrt(each);
    backend_.upload(squares, roots_.data(), roots_.size() * sizeof(float));
    return squares;
  }

  void collect(ErrorSums& sums) const {
    std::vector<float> found;
    for (const auto& [name, place] : places_) {
      found.resize((1 + request_.candidates.size()) * static_cast<size_t>(place.rows));
      backend_.download(found.data(), sums_.as<float>() + place.first, found.size() * sizeof(float));
      std::vector<float>& own = sums[name];
      own.resize(found.size());
      for (size_t i = 0; i < own.size(); ++i) own[i] += found[i];
    }
  }

  enum Slot : size_t { kOriginal, kRounded, kSquares };

  Backend& backend_;
  const SensitivityRequest& request_;
  std::span<const std::vector<TokenId>> sequences_;
  const DrawnLabels labels_;
  Status status_;
  std::map<std::string, Place> places_;
  int64_t floats_ = 0;
  Memory sums_;
  std::string layer_;
  std::map<std::pair<std::string, int64_t>, Prepared> prepared_;
  std::vector<float> roots_;
  Workspace memory_;
};

size_t range_of(const Linear& linear, size_t row) {
  const auto rows = static_cast<size_t>(linear.out), ranges = static_cast<size_t>(ranges_of(linear) / std::max<int64_t>(1, linear.experts));
  return row / rows * ranges + row % rows / static_cast<size_t>(grid::kRateRows);
}

// sums: of a linear. A row's error counts by its share of the squared gradients of the matrix, or of its expert's; the tokens' are in the
// sums.
std::map<int, std::vector<double>> costs_of(const Linear& linear, const std::vector<float>& sums, const SensitivityRequest& request,
                                            double tokens) {
  std::map<int, std::vector<double>> out;
  const size_t rows = sums.size() / (1 + request.candidates.size()), own = static_cast<size_t>(linear.out);
  for (const auto& [rate, model] : request.candidates) out[rate].resize(static_cast<size_t>(ranges_of(linear)));
  for (size_t first = 0; first < rows; first += own) {
    const double mean = std::accumulate(&sums[first], &sums[first] + own, 0.0) / static_cast<double>(own);
    if (!(mean > 0)) continue;  // an expert that no token came to
    for (size_t c = 0; c < request.candidates.size(); ++c)
      for (size_t r = first; r < first + own; ++r)
        out[request.candidates[c].first][range_of(linear, r)] += 0.5 * sums[r] / mean * sums[(1 + c) * rows + r] / tokens;
  }
  return out;
}

}  // namespace

Result<RoundingCosts> rounding_costs(Backend& backend, const Context& context, const SensitivityRequest& request) {
  const auto length = static_cast<int64_t>(request.sequences[0].size());
  const auto count = static_cast<int64_t>(request.sequences.size());
  const int64_t most = sequences_per_wave(request.standing.spec, length, wave_bytes(request, backend));
  ErrorSums sums;
  for (int64_t first = 0; first < count; first += most) {
    const auto sequences = request.sequences.subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(most, count - first)));
    TQ_TRY(Wave(backend, request, sequences, first).run(context, sums));
    context.listener.progress("costs", std::min(count, first + most), count);
  }
  RoundingCosts out;
  for (const Linear* linear : rated_linears(request.standing.spec))
    out[linear->name] = costs_of(*linear, sums.at(linear->name), request, static_cast<double>(count * length));
  return out;
}

}  // namespace tq
