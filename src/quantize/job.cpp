#include "quantize/job.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>

#include "base/seconds.h"
#include "graph/weights.h"
#include "quantize/allocation_plan.h"
#include "quantize/allocation_steps.h"
#include "quantize/calibrate.h"
#include "quantize/calibration.h"
#include "quantize/finished_job.h"
#include "quantize/float_backend.h"
#include "quantize/gradient_steps.h"
#include "quantize/job_folder.h"
#include "quantize/job_memory.h"
#include "quantize/job_steps.h"
#include "quantize/round_scalar.h"
#include "quantize/round_steps.h"
#include "quantize/rounded_model.h"
#include "quantize/stream.h"
#include "quantize/tune_steps.h"

namespace tq {
namespace {

class Job {
 public:
  Job(const Model& model, const QuantizePlan& plan, Backend& backend, const Context& context, JobFolder& folder, const ReportOf& report)
      : model_(model), plan_(plan), backend_(backend), context_(context), folder_(folder), report_(report) {}

  Result<QuantizeSummary> run(const std::string& directory) {
    TQ_TRY(check_free_space(directory, missing_bytes(model_, plan_, folder_)));
    TQ_TRY(check_kept(model_, plan_));
    TQ_TRY(check_tables(model_, context_.threads));
    TQ_TRY(make_steps());
    TQ_TRY(tune());
    TQ_TRY(assemble_steps());
    TQ_TRY(folder_.publish(directory));
    summary_.bits = mean_bits(plan_);
    summary_.layers = plan_.layers;
    summary_.allocation = plan_.allocation;
    summary_.target = plan_.options.target;
    summary_.files_bytes = planned_bytes(model_, plan_);
    return summary_;
  }

 private:
  bool tables_done() const { return plan_.tables.empty() || folder_.has_step(kTablesStep); }

  // One step past the last that has to be made; the stream need not go further.
  int64_t layers_needed() const {
    const auto count = static_cast<int64_t>(plan_.layers.size());
    if (!tables_done()) return count;
    int64_t needed = 0;
    for (int64_t i = 0; i < count; ++i)
      if (!folder_.has_step(layer_step(i))) needed = i + 1;
    return needed;
  }

  Status make_steps() {
    if (uses_allocation(plan_.options)) TQ_TRY(load_allocation(model_, folder_, plan_));
    const int64_t needed = layers_needed();
    if (needed == 0 && tables_done()) return {};
    std::vector<int> text;
    TQ_ASSIGN(const std::vector<std::vector<TokenId>> sequences, read_sequences(&text));
    warn_of_one_text(plan_.options, context_.listener);
    FloatBackend by_blas(backend_, context_.threads);
    const bool is_decoded = backend_.is_host() && decoded_layer_bytes(plan_) <= kLargestDecodedLayer;
    Backend& backend = is_decoded ? by_blas : backend_;
    TokenWeights weights;
    std::vector<bool> is_measured;
    if (uses_gradients(plan_.options)) TQ_TRY(weigh_tokens(sequences, backend, weights, is_measured));
    const TokenWeights* used = weights.empty() ? nullptr : &weights;
    if (uses_allocation(plan_.options)) TQ_TRY(choose_rates(sequences, used, backend));
    if (rounds_in_sequence(plan_.options))
      return make_calibrated_steps({model_, plan_, sequences, text, used, is_measured}, backend, needed);
    return make_streamed_steps({.sequences = sequences, .options = plan_.options, .weights = used}, backend, needed);
  }

  Status choose_rates(const std::vector<std::vector<TokenId>>& sequences, const TokenWeights* weights, Backend& backend) {
    const auto start = std::chrono::steady_clock::now();
    const StageTimer timer(context_.times, "allocation");
    TQ_ASSIGN(const auto held_out, held_out_sequences(sequences));
    const QuantizePlan before = plan_;
    TQ_TRY(allocation_steps({model_, before, sequences, held_out, weights}, backend, context_, folder_, plan_));
    summary_.seconds_allocation += seconds_since(start);
    return {};
  }

  // All layers on the original model's stream, several of them rounded at once.
  Status make_streamed_steps(const Stream::Settings& settings, Backend& backend, int64_t needed) {
    TQ_ASSIGN(Stream stream, Stream::create(model_, backend, context_, settings));
    // A device has work for all its processors only if it gets many rows of one width.
    const size_t wave =
        backend_.quantizer() ? layers_in_memory(plan_, context_.threads.size()) : layers_per_wave(plan_, context_.threads.size());
    std::vector<PendingStep> pending;
    for (int64_t layer = 0; layer < needed; ++layer) {
      const bool is_done = folder_.has_step(layer_step(layer));
      Statistics statistics;
      const auto start = std::chrono::steady_clock::now();
      TQ_TRY(stream.advance(is_done ? nullptr : &statistics));
      summary_.seconds_statistics += seconds_since(start);
      if (!is_done)
        pending.push_back(
            {layer_step(layer), &plan_.layers[static_cast<size_t>(layer)], std::move(statistics), plan_.folds[static_cast<size_t>(layer)]});
      if (pending.size() == wave || layer + 1 == needed) TQ_TRY(finish(pending));
      context_.listener.progress("layers", layer + 1, needed + !tables_done());
    }
    if (tables_done()) return {};
    Statistics statistics;
    TQ_TRY(stream.measure_head(statistics));
    return make_tables(std::move(statistics));
  }

  // Of all sequences, from the gradients of as many as the options say.
  Status weigh_tokens(const std::vector<std::vector<TokenId>>& sequences, Backend& backend, TokenWeights& weights,
                      std::vector<bool>& is_measured) {
    const auto start = std::chrono::steady_clock::now();
    const StageTimer timer(context_.times, "gradients");
    const auto length = static_cast<int64_t>(sequences[0].size()), count = static_cast<int64_t>(sequences.size());
    const int64_t tokens = plan_.options.gradient_tokens;
    is_measured = spread_sequences(count, tokens > 0 ? std::max<int64_t>(1, tokens / length) : count);
    std::vector<std::vector<TokenId>> measured;
    for (size_t i = 0; i < sequences.size(); ++i)
      if (is_measured[i]) measured.push_back(sequences[i]);
    TQ_ASSIGN(const Gradients gradients, gradient_steps(model_, backend, context_, folder_, {measured, 0, plan_.options.seed}));
    weights = with_means(token_weights(model_.spec, gradients), is_measured, length);
    summary_.seconds_gradients += seconds_since(start);
    return {};
  }

  Status make_tables(Statistics statistics) {
    const StageTimer timer(context_.times, "tables");
    std::vector<PendingStep> pending(1);
    pending[0] = {kTablesStep, &plan_.tables, std::move(statistics), {}};
    TQ_TRY(finish(pending));
    const auto steps = static_cast<int64_t>(plan_.layers.size()) + 1;
    context_.listener.progress("layers", steps, steps);
    return {};
  }

  // The layers one after another, each on what the rounded ones before it make of the text.
  Status make_calibrated_steps(const CalibrationRequest& request, Backend& backend, int64_t needed) {
    const auto start = std::chrono::steady_clock::now();
    std::optional<StageTimer> timer(std::in_place, context_.times, "blocks");
    TQ_ASSIGN(Calibration calibration, Calibration::create(request, backend, backend_, context_));
    for (int64_t layer = 0; layer < needed; ++layer) {
      const std::string step = layer_step(layer);
      if (!folder_.has_step(step)) {
        TQ_ASSIGN(const CalibratedLayer made, calibration.round());
        const StageTimer saving(context_.times, "saving");
        TQ_TRY(save_step_file(folder_, step, plan_.layers[static_cast<size_t>(layer)], made.rounded,
                              uses_calibration(plan_.options) ? &made.facts : nullptr));
      }
      if (layer + 1 < needed || !tables_done()) {
        TQ_ASSIGN(auto archive, folder_.open_step(step));
        TQ_TRY(calibration.advance(std::move(archive)));
      }
      context_.listener.progress("layers", layer + 1, needed + !tables_done());
    }
    (uses_calibration(plan_.options) ? summary_.seconds_calibration : summary_.seconds_rounding) = seconds_since(start);
    timer.reset();
    if (tables_done()) return {};
    Statistics statistics;
    TQ_TRY(calibration.measure_head(statistics));
    return make_tables(std::move(statistics));
  }

  // text: the place of the text that each comes from.
  Result<std::vector<std::vector<TokenId>>> read_sequences(std::vector<int>* text = nullptr) {
    if (!model_.tokenizer) return bad_input("{}: it has no tokenizer, so that no text can be run through it", model_.source);
    TQ_ASSIGN(const std::vector<CalibrationText> texts, read_calibration(plan_.options));
    const int64_t sequence = std::min(plan_.options.sequence, model_.spec.context);
    return calibration_sequences(*model_.tokenizer, texts, sequence, calibration_tokens(plan_.options), text);
  }

  // Sequences of the same texts that are not among these; what the texts lack, the last of these.
  Result<std::vector<std::vector<TokenId>>> held_out_sequences(const std::vector<std::vector<TokenId>>& used) {
    constexpr size_t kCount = kAllocationHeldOut;
    TQ_ASSIGN(const std::vector<CalibrationText> texts, read_calibration(plan_.options));
    const auto length = static_cast<int64_t>(used[0].size());
    TQ_ASSIGN(const auto more, calibration_sequences(*model_.tokenizer, texts, length, 2 * length * static_cast<int64_t>(used.size())));
    const std::set<std::vector<TokenId>> known(used.begin(), used.end());
    std::vector<std::vector<TokenId>> fresh, out;
    for (const auto& sequence : more)
      if (!known.contains(sequence)) fresh.push_back(sequence);
    for (size_t i = 0; i < std::min(kCount, fresh.size()); ++i) out.push_back(fresh[i * fresh.size() / std::min(kCount, fresh.size())]);
    for (size_t i = used.size(); out.size() < kCount && i-- > 0;) out.push_back(used[i]);
    return out;
  }

  Result<StepArchives> open_rounded() const {
    StepArchives archives;
    for (size_t i = 0; i < plan_.layers.size(); ++i) {
      TQ_ASSIGN(auto archive, folder_.open_step(layer_step(static_cast<int64_t>(i))));
      archives.push_back(std::move(archive));
    }
    if (plan_.tables.empty()) return archives;
    TQ_ASSIGN(auto archive, folder_.open_step(kTablesStep));
    archives.push_back(std::move(archive));
    return archives;
  }

  Status tune() {
    if (!uses_tuning(plan_.options)) return {};
    const auto start = std::chrono::steady_clock::now();
    const StageTimer timer(context_.times, "tuning");
    if (!folder_.has_step(kTuneStep)) TQ_TRY(run_tuning());
    TQ_ASSIGN(summary_.tuning, load_tuning(folder_));
    summary_.seconds_tuning = seconds_since(start);
    return {};
  }

  Status run_tuning() {
    TQ_ASSIGN(const StepArchives archives, open_rounded());
    TQ_ASSIGN(const Model rounded, rounded_model(model_, plan_, archives));
    TQ_ASSIGN(const auto calibration, read_sequences());
    TQ_ASSIGN(const std::vector<CalibrationText> texts, read_calibration(plan_.options));
    const TuneSettings settings = tune_settings(plan_.options, model_.spec.context);
    const TuningText text =
        tuning_text(*model_.tokenizer,
                    {.texts = texts, .calibration = calibration, .length = settings.length, .count = settings.steps * settings.batch});
    FloatBackend by_blas(backend_, context_.threads);
    return tune_steps({model_, rounded, text, settings}, backend_.is_host() ? by_blas : backend_, context_, folder_);
  }

  // Rounds the pending steps and saves them.
  Status finish(std::vector<PendingStep>& pending) {
    const auto start = std::chrono::steady_clock::now();
    TQ_ASSIGN(const std::vector<RoundedStep> rounded, round_steps(model_, plan_, pending, backend_, context_));
    const StageTimer timer(context_.times, "saving");
    for (size_t i = 0; i < pending.size(); ++i) TQ_TRY(save_step_file(folder_, pending[i].name, *pending[i].tensors, rounded[i], nullptr));
    pending.clear();
    summary_.seconds_rounding += seconds_since(start);
    return {};
  }

  Status assemble_steps() {
    const StageTimer timer(context_.times, "writing");
    TQ_ASSIGN(StepArchives archives, open_rounded());
    for (const auto& archive : archives) read_step_facts(*archive, summary_);
    if (uses_tuning(plan_.options)) {  // before what it replaces
      TQ_ASSIGN(auto archive, folder_.open_step(kTuneStep));
      archives.insert(archives.begin(), std::move(archive));
    }
    return assemble({model_, plan_, archives, summary_, summary_.tuning.before(), summary_.tuning.after(), report_}, folder_.path());
  }

  const Model& model_;
  QuantizePlan plan_;  // allocation changes its rates
  Backend& backend_;
  const Context& context_;
  JobFolder& folder_;
  const ReportOf& report_;
  QuantizeSummary summary_;
};

}  // namespace

std::string maker_of(const QuantizeMaker& maker) {
  return fmt::format("{} on {}, {} on the host", maker.build, maker.backend.kind(), isa_name(maker.backend.isa()));
}

Result<QuantizeSummary> quantize(const Model& model, const QuantizePlan& plan, const QuantizeOutput& output, const QuantizeMaker& maker,
                                 const Context& context) {
  TQ_CHECK(plan.options.report == static_cast<bool>(output.report) && maker.backend.training());
  TQ_ASSIGN(JobFolder folder, JobFolder::open(model, plan, output.directory, output.resume, maker_of(maker)));
  if (folder.is_complete()) {
    TQ_ASSIGN(QuantizeSummary summary, finished_summary(folder, model, plan));
    TQ_TRY(folder.publish(output.directory));
    return summary;
  }
  StageTimes times;
  Context timed = context;
  timed.times = &times;
  auto result = Job(model, plan, maker.backend, timed, folder, output.report).run(output.directory);
  if (result) result->seconds = times.seconds();
  if (!result && result.error().code != ErrorCode::kInterrupted) folder.remove_without_steps();
  return result;
}

}  // namespace tq
