#include "quantize/job.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>
#include <set>

#include "artifact/format.h"
#include "base/output_file.h"
#include "codec/e8p/e8p.h"
#include "quantize/allocation_plan.h"
#include "quantize/allocation_steps.h"
#include "quantize/calibrate.h"
#include "quantize/calibration.h"
#include "quantize/card.h"
#include "quantize/float_backend.h"
#include "quantize/gradient_steps.h"
#include "quantize/job_folder.h"
#include "quantize/job_memory.h"
#include "quantize/round_steps.h"
#include "quantize/rounded_model.h"
#include "quantize/stream.h"
#include "quantize/tune_steps.h"

namespace tq {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string layer_step(int64_t layer) { return fmt::format("layer-{:05}", layer); }
constexpr const char* kTablesStep = "tables";
// Metadata of a step: the relative error of a tensor, what the experts of a tap point or all its readers were rounded under, the errors of
// a calibration.
const std::string kErrorKey = "error ", kExpertsKey = "experts ", kInputKey = "input ", kCalibrationKey = "calibration ";

class Job {
 public:
  Job(const Model& model, const QuantizePlan& plan, const QuantizeBackends& backends, const Context& context, JobFolder& folder,
      const ReportOf& report)
      : model_(model),
        plan_(plan),
        backend_(backends.main),
        training_(backends.training),
        context_(context),
        folder_(folder),
        report_(report) {}

  Result<QuantizeSummary> run(const std::string& directory) {
    TQ_TRY(check_free_space(directory, missing_bytes()));
    TQ_TRY(check_kept(model_, plan_));
    TQ_TRY(make_steps());
    TQ_TRY(tune());
    TQ_TRY(assemble());
    TQ_TRY(folder_.publish(directory));
    summary_.bits = mean_bits(plan_);
    summary_.layers = plan_.layers;
    summary_.allocation = plan_.allocation;
    summary_.target = plan_.options.target;
    summary_.files_bytes = planned_bytes(model_, plan_);
    return summary_;
  }

 private:
  // What is still to be written: the steps, and beside them, before they are removed, the artifact.
  uint64_t missing_bytes() const {
    uint64_t bytes = planned_bytes(model_, plan_);
    for (const TensorPlan* tensor : plan_.tensors())
      for (const safetensors::TensorInfo& array : arrays_of(*tensor))
        bytes += static_cast<uint64_t>(element_count(array.shape)) * dtype_size(array.dtype);
    return bytes - std::min(bytes, folder_.bytes());
  }

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
    Backend& training = backend.training() ? backend : training_;
    TokenWeights weights;
    std::vector<bool> is_measured;
    if (uses_gradients(plan_.options)) TQ_TRY(weigh_tokens(sequences, training, weights, is_measured));
    const TokenWeights* used = weights.empty() ? nullptr : &weights;
    if (uses_allocation(plan_.options)) {
      const auto start = std::chrono::steady_clock::now();
      const StageTimer timer(context_.times, "allocation");
      TQ_ASSIGN(const auto held_out, held_out_sequences(sequences));
      const QuantizePlan before = plan_;
      TQ_TRY(allocation_steps({model_, before, sequences, held_out, used}, backend, context_, folder_, plan_));
      summary_.seconds_allocation += seconds_since(start);
    }
    if (rounds_in_sequence(plan_.options))
      return make_calibrated_steps({model_, plan_, sequences, text, used, is_measured}, training, needed);
    TQ_ASSIGN(Stream stream,
              Stream::create(model_, backend, context_, {.sequences = sequences, .options = plan_.options, .weights = used}));
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
  Status weigh_tokens(const std::vector<std::vector<TokenId>>& sequences, Backend& training, TokenWeights& weights,
                      std::vector<bool>& is_measured) {
    const auto start = std::chrono::steady_clock::now();
    const StageTimer timer(context_.times, "gradients");
    const auto length = static_cast<int64_t>(sequences[0].size()), count = static_cast<int64_t>(sequences.size());
    const int64_t tokens = plan_.options.gradient_tokens;
    is_measured = spread_sequences(count, tokens > 0 ? std::max<int64_t>(1, tokens / length) : count);
    std::vector<std::vector<TokenId>> measured;
    for (size_t i = 0; i < sequences.size(); ++i)
      if (is_measured[i]) measured.push_back(sequences[i]);
    TQ_ASSIGN(const Gradients gradients, gradient_steps(model_, training, context_, folder_, {measured, 0, plan_.options.seed}));
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
        TQ_TRY(save({step, &plan_.layers[static_cast<size_t>(layer)], {}, {}}, made.rounded,
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
    FloatBackend by_blas(training_, context_.threads);
    Backend& device = backend_.training() ? backend_ : training_;
    return tune_steps({model_, rounded, text, settings}, device.is_host() ? by_blas : device, context_, folder_);
  }

  // Rounds the pending steps and saves them.
  Status finish(std::vector<PendingStep>& pending) {
    const auto start = std::chrono::steady_clock::now();
    TQ_ASSIGN(const std::vector<RoundedStep> rounded, round_steps(model_, plan_, pending, backend_, context_));
    const StageTimer timer(context_.times, "saving");
    for (size_t i = 0; i < pending.size(); ++i) TQ_TRY(save(pending[i], rounded[i]));
    pending.clear();
    summary_.seconds_rounding += seconds_since(start);
    return {};
  }

  static uint8_t activation_bits_of(const TensorPlan& tensor, const Loss& loss) {
    if (tensor.linear.role == Role::kHead) return kFineActivationBits;
    return static_cast<uint8_t>(activation_bits(tensor.rates, loss.activation_error, loss.measured_error));
  }

  Status save(const PendingStep& step, const RoundedStep& rounded, const CalibrationFacts* facts = nullptr) {
    const std::vector<TensorPlan>& tensors = *step.tensors;
    std::vector<JobFolder::Array> arrays;
    std::map<std::string, std::string> metadata;
    std::vector<uint8_t> precision;
    for (size_t i = 0; i < tensors.size(); ++i) precision.push_back(activation_bits_of(tensors[i], rounded.tensors[i].loss));
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto& [parts, loss] = rounded.tensors[i];
      const std::string& name = tensors[i].linear.name;
      for (const RoundedPart& part : parts)
        arrays.push_back(
            {{name + "." + part.name, part.dtype, {static_cast<int64_t>(part.bytes.size() / dtype_size(part.dtype))}}, part.bytes});
      if (tensors[i].method == Method::kTurboquant)
        arrays.push_back({{name + ".activation_bits", DType::kU8, {1}}, std::as_bytes(std::span<const uint8_t>(&precision[i], 1))});
      metadata[kErrorKey + name] = fmt::format("{:.17g}", loss.energy > 0 ? loss.error / loss.energy : 0.0);
    }
    for (const auto& [tap, letters] : rounded.experts) metadata[kExpertsKey + tap] = letters;
    for (const auto& [tap, input] : rounded.inputs) metadata[kInputKey + tap] = input.text();
    if (facts) metadata[kCalibrationKey + step.name] = fmt::format("{:.17g} {:.17g} {:d}", facts->plain, facts->calibrated, facts->is_kept);
    for (const auto& [name, values] : rounded.changed)
      arrays.push_back({{name, DType::kF32, {static_cast<int64_t>(values.size())}}, std::as_bytes(std::span<const float>(values))});
    for (const auto& [tap, sign] : rounded.signs)
      arrays.push_back({{tap + ".sign", DType::kU8, {static_cast<int64_t>(sign.size())}}, std::as_bytes(std::span<const uint8_t>(sign))});
    return folder_.save_step(step.name, arrays, metadata);
  }

  static CalibrationFacts facts_of(const std::string& text) {
    char* end = nullptr;
    const double plain = std::strtod(text.c_str(), &end);
    const double calibrated = std::strtod(end, &end);
    return {plain, calibrated, std::strtol(end, nullptr, 10) != 0};
  }

  Status assemble() {
    const StageTimer timer(context_.times, "writing");
    TQ_ASSIGN(StepArchives archives, open_rounded());
    if (uses_tuning(plan_.options)) {  // before what it replaces
      TQ_ASSIGN(auto archive, folder_.open_step(kTuneStep));
      archives.insert(archives.begin(), std::move(archive));
    }
    std::map<std::string, PendingArray> made;
    for (const auto& archive : archives) {
      for (const auto& tensor : archive->tensors()) made.emplace(tensor.name, pending(tensor.name, tensor.view, archive));
      for (const auto& [key, value] : archive->metadata()) {
        if (key.starts_with(kErrorKey)) summary_.errors[key.substr(kErrorKey.size())] = std::strtod(value.c_str(), nullptr);
        if (key.starts_with(kExpertsKey)) summary_.experts[key.substr(kExpertsKey.size())] = value;
        if (key.starts_with(kInputKey)) summary_.inputs[key.substr(kInputKey.size())] = input_facts(value);
        if (key.starts_with(kCalibrationKey)) summary_.calibration[key.substr(kCalibrationKey.size())] = facts_of(value);
      }
    }
    for (size_t rate = 0; rate < plan_.taps.size(); ++rate) {
      const grid::Taps& table = plan_.taps[rate];
      const std::string name = taps_name(static_cast<int>(rate), static_cast<int>(table.size()));
      const TensorView view{DType::kF32, {static_cast<int64_t>(table.size())}, reinterpret_cast<const std::byte*>(table.data())};
      made.emplace(name, pending(name, view, nullptr));
    }
    const e8p::Table tables[] = {e8p::absolute_table(), e8p::residual_table()};
    for (const auto& [name, table] : {std::pair("e8p.absolute", &tables[0]), std::pair("e8p.residual", &tables[1])}) {
      const TensorView view{DType::kF32, {static_cast<int64_t>(table->size())}, reinterpret_cast<const std::byte*>(table->data())};
      made.emplace(name, pending(name, view, nullptr));
    }
    const ArrayLookup look_up = [&](const std::string& name) -> const PendingArray* {
      const auto found = made.find(name);
      return found == made.end() ? nullptr : &found->second;
    };
    const ShardPlan shards = plan_shards(artifact_arrays(model_, plan_, look_up), plan_.options.shard_bytes);
    TQ_ASSIGN(const auto hashes, write_shards(folder_.path(), shards));
    for (const auto& [name, text] : plan_.texts) TQ_TRY(write_file(folder_.path() + "/" + name, text));
    const RecordFacts facts{hashes,
                            summary_.errors,
                            summary_.experts,
                            summary_.inputs,
                            summary_.calibration,
                            summary_.tuning.before(),
                            summary_.tuning.after(),
                            origin_of(model_, plan_.options)};
    TQ_TRY(write_file(folder_.path() + "/turboquant.json", record_text(model_, plan_, facts)));
    return report_ ? write_report() : Status();
  }

  // Filled up to the promised size.
  Status write_report() {
    TQ_ASSIGN(std::string page, report_(folder_.path()));
    const uint64_t bytes = report_bytes(plan_);
    if (page.size() >= bytes) page = "<!doctype html>\n<title>TurboQuant</title>\n<p>tq eval --report writes this page.</p>\n";
    page.resize(bytes - 1, ' ');
    return write_file(folder_.path() + "/report.html", page + "\n");
  }

  const Model& model_;
  QuantizePlan plan_;  // allocation changes its rates
  Backend& backend_;
  Backend& training_;
  const Context& context_;
  JobFolder& folder_;
  const ReportOf& report_;
  QuantizeSummary summary_;
};

ShardPlan measured_shards(const Model& model, const QuantizePlan& plan) {
  return plan_shards(artifact_arrays(model, plan, [](const std::string&) { return nullptr; }), plan.options.shard_bytes);
}

}  // namespace

std::string maker_of(const QuantizeBackends& backends) {
  const std::string kind = backends.main.kind();
  return fmt::format("{} on {}, {} on the host", backends.build, kind, isa_name(backends.main.isa()));
}

uint64_t planned_bytes(const Model& model, const QuantizePlan& plan) {
  const ShardPlan shards = measured_shards(model, plan);
  uint64_t total = shards_size(shards);
  std::map<std::string, std::string> hashes;
  for (size_t i = 0; i < shards.size(); ++i) hashes[shard_name(i, shards.size())] = std::string(16, '0');
  if (shards.size() > 1) hashes["model.safetensors.index.json"] = std::string(16, '0');
  for (const auto& [name, text] : plan.texts) total += text.size();
  if (plan.options.report) total += report_bytes(plan);
  return total + record_text(model, plan, {.hashes = hashes, .errors = {}, .experts = {}, .inputs = {}, .calibration = {}}).size();
}

Result<QuantizeSummary> quantize(const Model& model, const QuantizePlan& plan, const std::string& directory, bool resume,
                                 const QuantizeBackends& backends, const Context& context, const ReportOf& report) {
  TQ_CHECK(plan.options.report == static_cast<bool>(report));
  TQ_ASSIGN(JobFolder folder, JobFolder::open(model, plan, directory, resume, maker_of(backends)));
  if (folder.is_complete()) {
    TQ_TRY(folder.publish(directory));
    QuantizeSummary summary;
    summary.files_bytes = planned_bytes(model, plan);
    summary.bits = mean_bits(plan);
    return summary;
  }
  StageTimes times;
  Context timed = context;
  timed.times = &times;
  auto result = Job(model, plan, backends, timed, folder, report).run(directory);
  if (result) result->seconds = times.seconds();
  std::error_code ignored;
  if (!result && result.error().code != ErrorCode::kInterrupted && std::filesystem::is_empty(folder.path() + "/" + kJobSteps, ignored))
    std::filesystem::remove_all(folder.path(), ignored);  // nothing in it is worth a --resume
  return result;
}

}  // namespace tq
