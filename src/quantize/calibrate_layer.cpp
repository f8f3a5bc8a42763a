#include "quantize/calibrate_layer.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "base/float16.h"
#include "base/rng.h"
#include "quantize/adam.h"
#include "quantize/compensation.h"
#include "quantize/layer_trainer.h"
#include "quantize/rounded_layer.h"

namespace tq {
namespace {

constexpr double kLastFactor = 0.1;  // of the learning rates at the last step
constexpr int kMostAttempts = 3;     // to make a layer better on all texts
constexpr double kMoreWeight = 4;    // of the texts that got worse, at each further one

class LayerCalibration {
 public:
  LayerCalibration(CalibrationPasses& passes, const CalibrationBudget& budget, Backend& rounding)
      : passes_(passes),
        budget_(budget),
        rounding_(rounding),
        model_(passes.request().model),
        plan_(passes.request().plan),
        tensors_(plan_.layers[static_cast<size_t>(passes.layer())]),
        order_(passes.split().training),
        random_(splitmix64(plan_.options.seed ^ splitmix64(static_cast<uint64_t>(passes.layer())))) {}

  Result<CalibratedLayer> run() {
    TQ_TRY(begin());
    TQ_TRY(measure(nullptr, plain_statistics_));
    plain_.tensors.resize(tensors_.size());
    if (!can_calibrate(blocks())) return round_uncalibrated();
    TQ_TRY(calibrate());
    if (budget_.steps == 0) return CalibratedLayer{std::move(tuned_), {}};
    TQ_ASSIGN(const BlockErrors plain, errors_of(plain_));
    CalibrationFacts facts{.plain = plain.all};
    std::vector<double> factor(plain.text.size(), 1);
    for (;; ++facts.attempts) {
      finish();
      TQ_ASSIGN(const BlockErrors calibrated, errors_of(tuned_));
      facts.calibrated = calibrated.all;
      const bool is_better = calibrated.all < plain.all;
      facts.is_kept = is_better && calibrated.is_no_worse_anywhere(plain);
      if (facts.is_kept || !is_better || !passes_.judges_apart() || facts.attempts == kMostAttempts) break;
      for (size_t i = 0; i < factor.size(); ++i)
        if (calibrated.text[i] > plain.text[i]) factor[i] *= kMoreWeight;
      TQ_TRY(start_again(factor));
    }
    return CalibratedLayer{std::move(facts.is_kept ? tuned_ : plain_), facts};
  }

 private:
  // Linears that are rounded together from statistics of their own, and where they go.
  struct Part {
    std::vector<size_t> places;
    std::vector<TensorPlan> tensors;
    Statistics statistics;
    RoundedStep* to = nullptr;
    std::map<std::string, const float*> stored = {};  // PendingStep::stored
  };

  const std::vector<Block>& blocks() const { return model_.spec.layers[static_cast<size_t>(passes_.layer())]; }
  StageTimes* times() const { return passes_.context().times; }
  auto settle() const {
    return [this] { passes_.backend().synchronize(); };
  }

  Status begin() {
    const StageTimer timer(times(), "targets", settle());
    TQ_ASSIGN(weights_, prepare_trainable_layer(model_, passes_.layer(), passes_.backend()));
    return passes_.make_targets(weights_);
  }

  // Stage by stage, from the original weights.
  Status calibrate() {
    tuned_ = {};
    tuned_.tensors.resize(tensors_.size());
    const LayerTrainer::Settings settings{model_.spec, passes_.layer(), {budget_.weight_rate, budget_.vector_rate}};
    TQ_ASSIGN(LayerTrainer trainer, LayerTrainer::create(settings, weights_, passes_.backend()));
    trainer_.emplace(std::move(trainer));
    if (plain_.changed.empty()) plain_.changed = trainer_->vectors();
    for (const CalibrationStage& stage : calibration_stages(blocks())) {
      TQ_TRY(round(stage));
      TQ_TRY(fix(stage));
      TQ_TRY(tune());
    }
    return {};
  }

  // With texts that weigh more, since they had got worse for the others' sake.
  Status start_again(const std::vector<double>& factor) {
    passes_.weigh_texts(factor);
    trainer_.reset();
    weights_.clear();
    TQ_ASSIGN(weights_, prepare_trainable_layer(model_, passes_.layer(), passes_.backend()));
    return calibrate();
  }

  Status measure(const std::set<std::string>* taps, Statistics& statistics, MisfitMeter* misfit = nullptr) {
    const StageTimer timer(times(), "statistics", settle());
    return passes_.measure(weights_, taps, statistics, misfit);
  }

  Result<BlockErrors> judged(const LayerWeights& weights) {
    const StageTimer timer(times(), "judging");
    return passes_.held_out_errors(weights, budget_.judged_tokens);
  }

  Result<CalibratedLayer> round_uncalibrated() {
    std::vector<PendingStep> steps(1);
    steps[0].tensors = &tensors_;
    steps[0].statistics = std::move(plain_statistics_);
    TQ_ASSIGN(std::vector<RoundedStep> rounded, round_steps(model_, plan_, steps, rounding_, passes_.context()));
    return CalibratedLayer{std::move(rounded[0]), {}};
  }

  // The stage's linears as they stand, and those of the plain layer that read the same inputs: together they keep more processors busy.
  // Before anything is tuned both are the same.
  Status round(const CalibrationStage& stage) {
    const bool is_first = !trainer_->is_started();
    if (is_first && first_) return (tuned_ = *first_), Status();
    std::set<std::string> taps;
    for (const size_t i : stage.tensors) taps.insert(tensors_[i].linear.tap);
    Model current = model_;
    std::vector<Part> parts;
    const bool is_compared = is_first || budget_.steps > 0;
    if (Part plain = plain_part(taps, current); is_compared && !plain.places.empty()) parts.push_back(std::move(plain));
    if (!is_first) {
      Statistics statistics;
      TQ_TRY(measure_stage(stage, taps, statistics));
      parts.push_back(tuned_part(stage, current));
      parts.back().statistics = std::move(statistics);
    }
    std::vector<PendingStep> steps;
    for (Part& part : parts)
      steps.push_back(
          {.name = {}, .tensors = &part.tensors, .statistics = std::move(part.statistics), .folds = {}, .stored = std::move(part.stored)});
    TQ_ASSIGN(std::vector<RoundedStep> rounded, round_steps(current, plan_, steps, rounding_, passes_.context()));
    for (size_t p = 0; p < parts.size(); ++p) {
      parts[p].to->signs.merge(rounded[p].signs), parts[p].to->inputs.merge(rounded[p].inputs);
      for (size_t i = 0; i < parts[p].places.size(); ++i) parts[p].to->tensors[parts[p].places[i]] = std::move(rounded[p].tensors[i]);
    }
    if (!is_first) return {};
    tuned_.signs = plain_.signs, tuned_.inputs = plain_.inputs;
    for (const size_t i : stage.tensors) tuned_.tensors[i] = plain_.tensors[i];
    first_ = tuned_;
    return {};
  }

  // Statistics of the stage's linears, which then take up what they can of what was lost before them.
  Status measure_stage(const CalibrationStage& stage, const std::set<std::string>& taps, Statistics& statistics) {
    const Linear& first = tensors_[stage.tensors[0]].linear;
    const bool is_output = first.role == Role::kOutput || first.role == Role::kDown;
    const MisfitPlace place{stage.block, first.tap, is_output, is_output ? first.out : first.in, first.in};
    if (!passes_.can_measure(place)) return measure(&taps, statistics);
    TQ_ASSIGN(MisfitMeter misfit, MisfitMeter::create(place, passes_.length(), passes_.backend()));
    TQ_TRY(measure(&taps, statistics, &misfit));
    SecondMoment& moment = statistics.at({first.tap, -1}).moment;
    if (const Status made = compensate(stage, misfit, moment); !made) {
      if (made.error().code != ErrorCode::kNoResource) return made;
      passes_.context().listener.warn(fmt::format("layer {}: {} is rounded without least squares, for which there is no memory: {}",
                                                  passes_.layer(), first.tap, made.error().message));
    }
    const MisfitSums& held_out = misfit.held_out();
    moment.add_sum(held_out.moment.as<float>(), held_out.weight, held_out.tokens, passes_.backend());
    return {};
  }

  Status compensate(const CalibrationStage& stage, const MisfitMeter& misfit, const SecondMoment& moment) {
    const StageTimer timer(times(), "least squares", settle());
    const float* sum = moment.sum_in(passes_.backend());
    Memory uploaded;  // where the device had no room for what rounding takes, its sums are on the host
    if (!sum) {
      TQ_ASSIGN(uploaded, moment.uploaded_to(passes_.backend()));
      sum = uploaded.as<float>();
    }
    Memory metric;
    if (!misfit.place().is_output) {
      TQ_ASSIGN(metric, trainer_->gram(stage.tensors));
    }
    TQ_ASSIGN(const std::optional<Compensation> found,
              find_compensation({misfit, sum, metric.empty() ? nullptr : metric.as<float>()}, passes_.backend()));
    if (!found) return {};
    const float* change = found->change.as<float>();
    if (misfit.place().is_output) {
      trainer_->add(stage.tensors[0], change);
      return {};
    }
    int64_t largest = 0;  // memory for all before the first is moved: all of a stage are, or none
    for (const size_t i : stage.tensors) largest = std::max(largest, tensors_[i].linear.out * tensors_[i].linear.in);
    TQ_ASSIGN(const Memory scratch, passes_.backend().allocate(static_cast<uint64_t>(largest) * sizeof(float)));
    for (const size_t i : stage.tensors) trainer_->add_product(i, change, scratch.as<float>());
    return {};
  }

  // All linears of these taps whose statistics in the plain layer have not been used yet; under names of their own in `current`.
  Part plain_part(const std::set<std::string>& taps, Model& current) {
    Part part{.places = {}, .tensors = {}, .statistics = {}, .to = &plain_};
    for (const std::string& tap : taps)
      if (auto found = plain_statistics_.extract(InputKey{tap, -1})) part.statistics.insert(std::move(found));
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (!part.statistics.contains({tensors_[i].linear.tap, -1})) continue;
      part.places.push_back(i);
      part.tensors.push_back(tensors_[i]);
      std::string& name = part.tensors.back().linear.name;
      const PackedTensor& original = *model_.find(name + ".weight");
      name += " (not calibrated)";
      current.tensors[name + ".weight"] = original;
    }
    return part;
  }

  Part tuned_part(const CalibrationStage& stage, Model& current) {
    Part part{.places = stage.tensors, .tensors = {}, .statistics = {}, .to = &tuned_};
    for (const size_t i : stage.tensors) {
      const Linear& linear = tensors_[i].linear;
      part.tensors.push_back(tensors_[i]);
      if (&rounding_ == &passes_.backend() && is_rounded_on_device(plan_, tensors_[i], rounding_))
        part.stored[linear.name] = trainer_->values_of(i);
      else current.tensors.at(linear.name + ".weight") = plain_tensor({linear.out, linear.in}, trainer_->weights_of(i));
    }
    return part;
  }

  // From now on the stage's linears are what their codes decode to.
  Status fix(const CalibrationStage& stage) {
    std::vector<TensorPlan> tensors;
    RoundedStep rounded;
    rounded.signs = tuned_.signs;
    for (const size_t i : stage.tensors) tensors.push_back(tensors_[i]), rounded.tensors.push_back(tuned_.tensors[i]);
    TQ_ASSIGN(const Model model, with_rounded(model_, tensors, plan_.taps, arrays_of(tensors, rounded), nullptr));
    for (const size_t i : stage.tensors) {
      const PackedTensor& tensor = *model.find(tensors_[i].linear.name + ".weight");
      TQ_ASSIGN(std::unique_ptr<Matrix> matrix, passes_.backend().training()->prepare_trainable(tensor));
      trainer_->fix(i, std::move(matrix));
    }
    return {};
  }

  // Adam on what is continuous; the best state by the held-out sequences stays.
  Status tune() {
    if (budget_.steps == 0) return {};
    const StageTimer timer(times(), "steps", settle());
    trainer_->begin();
    TQ_ASSIGN(const BlockErrors before, judged(weights_));
    double best = before.all;
    if (!(best > 0)) return {};
    const int64_t tokens = budget_.tokens > 0 ? std::min(budget_.tokens, passes_.length()) : passes_.length();
    const double scale = 1.0 / (before.all * static_cast<double>(budget_.sequences * tokens));
    const GradientSinks sinks = trainer_->sinks();
    const int64_t between = std::max<int64_t>(1, (budget_.steps + budget_.checks - 1) / budget_.checks);
    bool was_worse = false;
    for (int64_t step = 0; step < budget_.steps; ++step) {
      for (int64_t i = 0; i < budget_.sequences; ++i) TQ_TRY(passes_.gradients(weights_, {next_sequence(), tokens, scale}, sinks));
      trainer_->step(half_cosine(static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, budget_.steps - 1)), kLastFactor));
      if ((step + 1) % between != 0 && step + 1 < budget_.steps) continue;
      TQ_ASSIGN(const BlockErrors now, judged(weights_));
      const bool is_better = now.all < best && now.is_no_worse_anywhere(before);
      if (is_better) best = now.all, trainer_->keep();
      else if (was_worse) break;
      was_worse = !is_better;
    }
    trainer_->restore();
    return {};
  }

  // The training sequences in a new random order each time that all have been seen.
  int64_t next_sequence() {
    if (next_ == 0)
      for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random_.below(i)]);
    const int64_t sequence = order_[next_];
    next_ = (next_ + 1) % order_.size();
    return sequence;
  }

  // The tuned row scales and vectors as they will be stored.
  void finish() {
    tuned_.changed = trainer_->vectors();
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const std::vector<float> factors = trainer_->row_factors(i);
      for (RoundedPart& part : tuned_.tensors[i].parts) {
        if (part.name != "row_scale") continue;
        auto* halves = reinterpret_cast<uint16_t*>(part.bytes.data());
        for (size_t r = 0; r < factors.size(); ++r) halves[r] = float_to_f16(f16_to_float(halves[r]) * factors[r]);
      }
    }
  }

  Result<BlockErrors> errors_of(const RoundedStep& rounded) {
    TQ_ASSIGN(const Model model, with_rounded(model_, tensors_, plan_.taps, arrays_of(tensors_, rounded), nullptr));
    TQ_ASSIGN(const LayerWeights weights, prepare_trainable_layer(model, passes_.layer(), passes_.backend()));
    return judged(weights);
  }

  CalibrationPasses& passes_;
  const CalibrationBudget& budget_;
  Backend& rounding_;
  const Model& model_;
  const QuantizePlan& plan_;
  const std::vector<TensorPlan>& tensors_;
  std::vector<int64_t> order_;  // of the training sequences
  size_t next_ = 0;
  Rng random_;
  LayerWeights weights_;  // the layer as it stands
  std::optional<LayerTrainer> trainer_;
  Statistics plain_statistics_;  // of the original layer on the quantized stream
  RoundedStep plain_, tuned_;
  std::optional<RoundedStep> first_;  // tuned_ behind the first stage, which every attempt begins with
};

}  // namespace

Result<CalibratedLayer> calibrate_layer(CalibrationPasses& passes, const CalibrationBudget& budget, Backend& rounding) {
  return LayerCalibration(passes, budget, rounding).run();
}

}  // namespace tq
