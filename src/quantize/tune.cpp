#include "quantize/tune.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "graph/training_pass.h"
#include "graph/tunable_model.h"
#include "quantize/reference_divergence.h"

namespace tq {
namespace {

constexpr double kWorstDomain = 1.02;  // of a domain's KL of the untuned model
// Decoded models up to these sizes stay in memory.
constexpr uint64_t kHostBytes = uint64_t{8} << 30, kDeviceBytes = uint64_t{48} << 30;

}  // namespace

double TunePoint::mean() const {
  return std::accumulate(domain.begin(), domain.end(), 0.0) / static_cast<double>(std::max<size_t>(1, domain.size()));
}

bool is_better(const TunePoint& point, const TunePoint& untuned, double best) {
  if (!(point.mean() < best)) return false;
  for (size_t i = 0; i < point.domain.size(); ++i)
    if (!(point.domain[i] <= kWorstDomain * untuned.domain[i])) return false;
  return true;
}

TuneSettings tune_settings(const QuantizeOptions& options, int64_t context) {
  constexpr int64_t kSteps[3] = {32, 96, 384}, kBatch[3] = {2, 2, 4}, kLength[3] = {256, 256, 512};
  const auto effort = static_cast<size_t>(options.effort);
  TuneSettings settings;
  settings.steps = options.tune_steps > 0 ? options.tune_steps : kSteps[effort];
  settings.batch = kBatch[effort];
  settings.length = std::min({kLength[effort], options.sequence, context});
  if (options.tune_measures > 0) settings.measures = options.tune_measures;
  settings.measures = std::min(settings.measures, settings.steps);
  if (options.tune_rate > 0) settings.rate = options.tune_rate;
  settings.held_out = kHeldOutOfText * static_cast<int64_t>(calibration_texts(options));
  settings.seed = options.seed;
  return settings;
}

double usual_tuning_rate(double divergence) { return std::min(3e-3, 9e-3 * divergence); }

bool stays_decoded(const ModelSpec& spec, bool is_host) {
  const int64_t weights = count_weights(spec).linears + spec.head.in * spec.head.out;
  return static_cast<uint64_t>(weights) * sizeof(float) <= (is_host ? kHostBytes : kDeviceBytes);
}

uint64_t tuning_memory(const ModelSpec& spec, const TuneSettings& settings) {
  constexpr int64_t kLogits = 6;  // arrays of a chunk's logits
  const int64_t head = spec.head.in * spec.head.out, steps = (settings.steps + settings.measures - 1) / settings.measures;
  int64_t activations = 0;  // of a layer, kept and as gradients
  for (const auto& layer : spec.layers) {
    int64_t here = 0;
    for (const Block& block : layer)
      for (const Linear* linear : linears(block)) here += 2 * (linear->in + linear->out);
    activations = std::max(activations, here);
  }
  const int64_t states = (steps * settings.batch + 2 * settings.held_out) * settings.length * spec.hidden;
  const int64_t weights = count_weights(spec).linears / (stays_decoded(spec, true) ? 1 : std::max<int64_t>(1, spec.layers_count()));
  return sizeof(float) *
             static_cast<uint64_t>(weights + 2 * head + states + settings.length * activations + kLogits * kLogitsChunk * spec.vocabulary) +
         static_cast<uint64_t>(settings.batch) * training_bytes(spec, settings.length) +
         kept_trace_bytes(spec, settings.batch * settings.length);
}

class Tuner::Run {
 public:
  Run(const Request& request, Backend& backend, const Context& context)
      : request_(request),
        text_(request.text),
        settings_(request.settings),
        spec_(request.original.spec),
        backend_(backend),
        context_(context),
        tunables_(request.rounded) {}

  Status prepare() {
    TQ_CHECK(!text_.sequences.empty() && !text_.held_out.empty() && backend_.training());
    TQ_ASSIGN(auto divergence, ReferenceDivergence::create(request_.original, backend_, context_));
    divergence_.emplace(std::move(divergence));
    TQ_ASSIGN(gradient_, backend_.allocate(static_cast<uint64_t>(tunables_.count()) * sizeof(float)));
    return {};
  }

  const Tunables& tunables() const { return tunables_; }
  const TuneSettings& settings() const { return settings_; }

  Status measure(TuneState& state) {
    TunePoint point{state.step(), {}};
    TQ_ASSIGN(point.domain, held_out_divergence(state.theta));
    const TunePoint& untuned = state.held_out.empty() ? point : state.held_out[0];
    double best = untuned.mean();
    for (const TunePoint& earlier : state.held_out)
      if (earlier.step == state.best_step) best = earlier.mean();
    if (!state.held_out.empty() && is_better(point, untuned, best)) state.best = state.theta, state.best_step = point.step;
    state.held_out.push_back(std::move(point));
    return {};
  }

  Status train(TuneState& state, int64_t until) {
    const std::vector<size_t> numbers =
        drawn_sequences(text_.sequences.size(), state.step() * settings_.batch, until * settings_.batch, settings_.seed);
    std::vector<std::vector<TokenId>> sequences;
    for (const size_t number : numbers) sequences.push_back(text_.sequences[number]);
    TQ_ASSIGN(const Memory reference, divergence_->hidden(sequences));
    if (!resident_) TQ_TRY(prepare_resident(state.theta));  // of a state that was read
    for (size_t first = 0; state.step() < until; first += static_cast<size_t>(settings_.batch)) {
      const auto batch = std::span(sequences).subspan(first, static_cast<size_t>(settings_.batch));
      TQ_TRY(step(state, batch, reference.as<float>() + static_cast<int64_t>(first) * floats()));
      context_.listener.progress("tuning", state.step(), settings_.steps);
    }
    return {};
  }

 private:
  int64_t floats() const { return settings_.length * spec_.hidden; }  // of the hidden states of a sequence

  Result<std::vector<double>> held_out_divergence(std::span<const float> theta) {
    const Model moved = tunables_.moved(request_.rounded, theta);
    TQ_TRY(prepare_resident(theta));
    return divergence_->held_out(moved, resident(), text_);
  }

  // reference: the original's last hidden states of the batch.
  Status step(TuneState& state, std::span<const std::vector<TokenId>> batch, const float* reference) {
    backend_.zero(gradient_.as<float>(), tunables_.count());
    const auto on_loss = [&](int64_t sequence, const LossChunk& chunk) { divergence_->fill(chunk, reference + sequence * floats()); };
    const Model moved = resident_ ? request_.rounded : tunables_.moved(request_.rounded, state.theta);
    TQ_ASSIGN(const double loss, training_pass(moved, backend_, context_,
                                               {.sequences = batch,
                                                .loss = on_loss,
                                                .linear = [this](int64_t, const LinearGradient& gradient) { add(gradient); },
                                                .norm = [this](const NormGradient& gradient) { add(gradient); },
                                                .embedded = {},
                                                .weights = resident(),
                                                .traces = &traces_}));
    const double tokens = static_cast<double>(settings_.batch * settings_.length);
    if (!std::isfinite(loss))
      return fail(ErrorCode::kFailed, "{}: the divergence of the rounded model is no finite number", request_.original.source);
    state.losses.push_back(loss / tokens);
    move(state, 1.0 / tokens);
    return {};
  }

  const TrainableModel* resident() const { return resident_ ? &resident_->weights() : nullptr; }

  // Every measurement begins with freshly decoded weights, so that a run from a stored state has the same ones.
  Status prepare_resident(std::span<const float> theta) {
    resident_.reset();  // before its successor
    if (!stays_decoded(spec_, backend_.is_host())) return {};
    TQ_ASSIGN(resident_, TunableModel::create(request_.rounded, tunables_, theta, backend_));
    return {};
  }

  float* place(TunableKind kind, const std::string& owner) const {
    const TunableVector* vector = tunables_.find(kind, owner);
    return vector ? gradient_.as<float>() + vector->first : nullptr;
  }

  void add(const LinearGradient& gradient) {
    const Linear& linear = gradient.linear;
    const int64_t row = gradient.expert * linear.out;
    if (float* sum = place(TunableKind::kRowScale, linear.name))
      backend_.training()->row_scale_gradient({.output = gradient.output,
                                               .bias = gradient.bias,
                                               .gradient = gradient.gradient,
                                               .sum = sum + row,
                                               .tokens = gradient.tokens,
                                               .rows = linear.out});
    if (float* sum = place(TunableKind::kBias, linear.name))
      backend_.training()->column_sum({.gradient = gradient.gradient, .sum = sum + row, .tokens = gradient.tokens, .rows = linear.out});
  }

  void add(const NormGradient& gradient) {
    if (float* sum = place(TunableKind::kNorm, gradient.norm.name)) backend_.add(sum, gradient.weight_gradient, gradient.norm.width);
  }

  // One step of Adam by the gradients that were summed. scale: of the gradients.
  void move(TuneState& state, double scale) {
    std::vector<float> gradient(state.theta.size());
    backend_.download(gradient.data(), gradient_.as<float>(), gradient.size() * sizeof(float));
    const double highest = settings_.rate > 0 ? settings_.rate : usual_tuning_rate(state.held_out.front().mean());
    const std::vector<float> rate(state.theta.size(), static_cast<float>(highest * rate_factor(state.step(), settings_.steps)));
    for (const TunableVector& vector : tunables_.vectors()) {
      const double unit = scale * vector.unit;
      for (int64_t i = vector.first; i < vector.first + vector.count; ++i) {
        gradient[static_cast<size_t>(i)] *= static_cast<float>(unit);
      }
    }
    state.adam.step(gradient, rate, state.theta);
    if (resident_) resident_->move(state.theta);
  }

  const Request request_;
  const TuningText& text_;
  const TuneSettings& settings_;
  const ModelSpec& spec_;
  Backend& backend_;
  const Context& context_;
  Tunables tunables_;
  std::optional<ReferenceDivergence> divergence_;
  std::optional<TunableModel> resident_;
  Memory gradient_;    // by the stored values of the vectors; of row scales by their logarithms
  KeptTraces traces_;  // of a batch
};

Tuner::Tuner(std::unique_ptr<Run> run) : run_(std::move(run)) {}
Tuner::Tuner(Tuner&&) noexcept = default;
Tuner::~Tuner() = default;

Result<Tuner> Tuner::create(const Request& request, Backend& backend, const Context& context) {
  auto run = std::make_unique<Run>(request, backend, context);
  TQ_TRY(run->prepare());
  return Tuner(std::move(run));
}

const Tunables& Tuner::tunables() const { return run_->tunables(); }

TuneState Tuner::start() const {
  const auto count = static_cast<size_t>(tunables().count());
  return {.theta = std::vector<float>(count),
          .adam = Adam(tunables().count()),
          .losses = {},
          .held_out = {},
          .best = std::vector<float>(count),
          .best_step = 0};
}

bool Tuner::is_done(const TuneState& state) const { return static_cast<int64_t>(state.held_out.size()) > run_->settings().measures; }

Status Tuner::advance(TuneState& state) {
  TQ_CHECK(!is_done(state));
  const auto measured = static_cast<int64_t>(state.held_out.size());
  const int64_t next = run_->settings().step_of(measured);
  return state.step() < next ? run_->train(state, next) : run_->measure(state);
}

}  // namespace tq
