#include "quantize/job.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>

#include "artifact/format.h"
#include "base/output_file.h"
#include "quantize/calibration.h"
#include "quantize/card.h"
#include "quantize/job_folder.h"
#include "quantize/stream.h"

namespace tq {
namespace {

using Archives = std::vector<std::shared_ptr<const safetensors::Archive>>;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string layer_step(int64_t layer) { return fmt::format("layer-{:05}", layer); }
constexpr const char* kTablesStep = "tables";

struct TapPoint {
  std::vector<uint8_t> sign;
  Objective objective;
};

class Job {
 public:
  Job(const Model& model, const QuantizePlan& plan, Backend& backend, const Context& context, JobFolder folder)
      : model_(model), plan_(plan), backend_(backend), context_(context), folder_(std::move(folder)) {}

  Result<QuantizeSummary> run(const std::string& directory) {
    TQ_TRY(make_steps());
    TQ_TRY(assemble());
    TQ_TRY(publish(directory));
    summary_.bits = mean_bits(plan_);
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
    const int64_t needed = layers_needed();
    if (needed == 0 && tables_done()) return {};
    TQ_ASSIGN(const std::vector<std::vector<TokenId>> sequences, read_sequences());
    Stream stream(model_, backend_, context_, sequences);
    for (int64_t layer = 0; layer < needed; ++layer) {
      const bool is_done = folder_.has_step(layer_step(layer));
      Moments moments;
      const auto start = std::chrono::steady_clock::now();
      TQ_TRY(stream.advance(is_done ? nullptr : &moments));
      summary_.seconds_statistics += seconds_since(start);
      if (!is_done) TQ_TRY(make_step(layer_step(layer), plan_.layers[static_cast<size_t>(layer)], moments));
      context_.listener.progress("layers", layer + 1, needed + !tables_done());
    }
    if (tables_done()) return {};
    Moments moments;
    TQ_TRY(stream.head_moment(moments));
    TQ_TRY(make_step(kTablesStep, plan_.tables, moments));
    context_.listener.progress("layers", needed + 1, needed + 1);
    return {};
  }

  Result<std::vector<std::vector<TokenId>>> read_sequences() {
    if (!model_.tokenizer) return bad_input("{}: it has no tokenizer, so that no text can be run through it", model_.source);
    TQ_ASSIGN(const std::vector<CalibrationText> texts, read_calibration(plan_.options));
    const int64_t sequence = std::min(plan_.options.sequence, model_.spec.context);
    return calibration_sequences(*model_.tokenizer, texts, sequence, calibration_tokens(plan_.options));
  }

  // Rounds the tensors of a step, all at once on the threads, and saves them.
  Status make_step(const std::string& step, const std::vector<TensorPlan>& tensors, Moments& moments) {
    const auto start = std::chrono::steady_clock::now();
    const std::map<std::string, TapPoint> taps = prepare_taps(tensors, moments);
    std::vector<size_t> order(tensors.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return weights(tensors[a]) > weights(tensors[b]); });
    std::vector<Rounded> rounded(tensors.size());
    context_.threads.run(static_cast<int64_t>(order.size()), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const size_t at = order[static_cast<size_t>(i)];
        if (!context_.stopped()) rounded[at] = round_tensor(tensors[at], taps.at(tensors[at].linear.tap));
      }
    });
    if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    for (size_t i = 0; i < tensors.size(); ++i)  // tr(W H W^T) is finite only if the weights and everything before them are
      if (!std::isfinite(rounded[i].energy))
        return bad_input(
            "{}: {}.weight, or a weight before it, holds a value that is no finite number; the file is damaged, fetch it again",
            model_.source, tensors[i].linear.name);
    TQ_TRY(save(step, tensors, rounded, taps));
    summary_.seconds_rounding += seconds_since(start);
    return {};
  }

  static int64_t weights(const TensorPlan& tensor) { return tensor.linear.in * tensor.linear.out; }

  std::map<std::string, TapPoint> prepare_taps(const std::vector<TensorPlan>& tensors, Moments& moments) {
    std::map<std::string, TapPoint> taps;
    std::vector<std::pair<std::string, int64_t>> names;
    for (const TensorPlan& tensor : tensors)
      if (taps.try_emplace(tensor.linear.tap).second) names.emplace_back(tensor.linear.tap, tensor.linear.in);
    std::stable_sort(names.begin(), names.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    context_.threads.run(static_cast<int64_t>(names.size()), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const auto& [name, columns] = names[static_cast<size_t>(i)];
        TapPoint& tap = taps.at(name);
        tap.sign = sign_of(name, columns, plan_.options.seed);
        const auto moment = moments.find(name);
        tap.objective = moment == moments.end() ? identity_objective(columns)
                                                : make_objective(moment->second.take(), columns, tap.sign.data(), plan_.options.damping);
      }
    });
    moments.clear();
    return taps;
  }

  Rounded round_tensor(const TensorPlan& tensor, const TapPoint& tap) const {
    const Buffer<float> weight = decode(*model_.find(tensor.linear.name + ".weight"));
    return round_to_grid({.weight = weight.data(),
                          .rows = tensor.linear.out,
                          .columns = tensor.linear.in,
                          .sign = tap.sign.data(),
                          .objective = &tap.objective,
                          .rates = tensor.rates,
                          .taps = &plan_.taps,
                          .isa = best_isa()});
  }

  Status save(const std::string& step, const std::vector<TensorPlan>& tensors, const std::vector<Rounded>& rounded,
              const std::map<std::string, TapPoint>& taps) {
    std::vector<JobFolder::Array> arrays;
    std::map<std::string, std::string> errors;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const std::vector<safetensors::TensorInfo> infos = arrays_of(tensors[i]);
      arrays.push_back({infos[0], std::as_bytes(rounded[i].bits.span())});
      arrays.push_back({infos[1], std::as_bytes(std::span<const uint16_t>(rounded[i].row_scale))});
      arrays.push_back({infos[2], std::as_bytes(std::span<const uint8_t>(tensors[i].rates))});
      const double relative = rounded[i].energy > 0 ? rounded[i].error / rounded[i].energy : 0.0;
      errors[tensors[i].linear.name] = fmt::format("{:.17g}", relative);
    }
    for (const auto& [name, tap] : taps)
      arrays.push_back(
          {{name + ".sign", DType::kU8, {static_cast<int64_t>(tap.sign.size())}}, std::as_bytes(std::span<const uint8_t>(tap.sign))});
    return folder_.save_step(step, arrays, errors);
  }

  Status assemble() {
    Archives archives;
    for (size_t i = 0; i < plan_.layers.size(); ++i) {
      TQ_ASSIGN(auto archive, folder_.open_step(layer_step(static_cast<int64_t>(i))));
      archives.push_back(std::move(archive));
    }
    if (!plan_.tables.empty()) {
      TQ_ASSIGN(auto archive, folder_.open_step(kTablesStep));
      archives.push_back(std::move(archive));
    }
    std::map<std::string, PendingArray> made;
    for (const auto& archive : archives) {
      for (const auto& tensor : archive->tensors()) made.emplace(tensor.name, pending(tensor.name, tensor.view, archive));
      for (const auto& [name, error] : archive->metadata()) summary_.errors[name] = std::strtod(error.c_str(), nullptr);
    }
    for (size_t rate = 0; rate < plan_.taps.size(); ++rate) {
      const grid::Taps& table = plan_.taps[rate];
      const std::string name = taps_name(static_cast<int>(rate), static_cast<int>(table.size()));
      const TensorView view{DType::kF32, {static_cast<int64_t>(table.size())}, reinterpret_cast<const std::byte*>(table.data())};
      made.emplace(name, pending(name, view, nullptr));
    }
    const ArrayLookup look_up = [&](const std::string& name) -> const PendingArray* {
      const auto found = made.find(name);
      return found == made.end() ? nullptr : &found->second;
    };
    const ShardPlan shards = plan_shards(artifact_arrays(model_, plan_, look_up), plan_.options.shard_bytes);
    TQ_ASSIGN(const auto hashes, write_shards(folder_.path(), shards));
    for (const auto& [name, text] : plan_.texts) TQ_TRY(write_file(folder_.path() + "/" + name, text));
    TQ_TRY(write_file(folder_.path() + "/turboquant.json", record_text(model_, plan_, hashes, summary_.errors)));
    return folder_.remove_steps();
  }

  const Model& model_;
  const QuantizePlan& plan_;
  Backend& backend_;
  const Context& context_;
  JobFolder folder_;
  QuantizeSummary summary_;
};

// A run that was killed between the removal of its steps and the renaming left everything complete.
bool only_the_name_is_missing(const std::string& partial) {
  std::error_code error;
  return std::filesystem::exists(partial + "/turboquant.json", error) && !std::filesystem::exists(partial + "/steps", error);
}

ShardPlan measured_shards(const Model& model, const QuantizePlan& plan) {
  return plan_shards(artifact_arrays(model, plan, [](const std::string&) { return nullptr; }), plan.options.shard_bytes);
}

}  // namespace

uint64_t planned_bytes(const Model& model, const QuantizePlan& plan) {
  const ShardPlan shards = measured_shards(model, plan);
  uint64_t total = shards_size(shards);
  std::map<std::string, std::string> hashes;
  for (size_t i = 0; i < shards.size(); ++i) hashes[shard_name(i, shards.size())] = std::string(16, '0');
  if (shards.size() > 1) hashes["model.safetensors.index.json"] = std::string(16, '0');
  for (const auto& [name, text] : plan.texts) total += text.size();
  return total + record_text(model, plan, hashes, {}).size();
}

uint64_t planned_memory(const Model& model, const QuantizePlan& plan, int threads) {
  const auto hidden = static_cast<uint64_t>(calibration_tokens(plan.options)) * static_cast<uint64_t>(model.spec.hidden) * 4;
  uint64_t largest_layer = 0;
  const auto step_bytes = [&](const std::vector<TensorPlan>& tensors) {
    std::map<std::string, uint64_t> taps;
    std::vector<uint64_t> working;  // of a tensor: the weight, and three matrices of the rounding loop
    for (const TensorPlan& tensor : tensors) {
      const auto columns = static_cast<uint64_t>(tensor.linear.in);
      taps[tensor.linear.tap] = 2 * columns * columns * 4;
      working.push_back(static_cast<uint64_t>(tensor.linear.out) * columns * 16);
    }
    std::sort(working.rbegin(), working.rend());
    uint64_t total = 0;
    for (const auto& [name, bytes] : taps) total += bytes;
    for (size_t i = 0; i < std::min(working.size(), static_cast<size_t>(threads)); ++i) total += working[i];
    return total;
  };
  for (const auto& layer : plan.layers) largest_layer = std::max(largest_layer, step_bytes(layer));
  return hidden + std::max(largest_layer, step_bytes(plan.tables));
}

Result<QuantizeSummary> quantize(const Model& model, const QuantizePlan& plan, const std::string& directory, bool resume, Backend& backend,
                                 const Context& context) {
  if (resume && only_the_name_is_missing(partial_directory(directory))) {
    TQ_TRY(publish(directory));
    QuantizeSummary summary;
    summary.files_bytes = planned_bytes(model, plan);
    summary.bits = mean_bits(plan);
    return summary;
  }
  TQ_ASSIGN(JobFolder folder, JobFolder::open(model, plan, directory, resume));
  auto result = Job(model, plan, backend, context, std::move(folder)).run(directory);
  std::error_code ignored;
  const std::string partial = partial_directory(directory);
  if (!result && result.error().code != ErrorCode::kInterrupted && std::filesystem::is_empty(partial + "/steps", ignored))
    std::filesystem::remove_all(partial, ignored);  // nothing in it is worth a --resume
  return result;
}

}  // namespace tq
