#include "quantize/gradient_steps.h"

#include <algorithm>

namespace tq {
namespace {

const std::string kToken = ".token", kRow = ".row";

Status save(JobFolder& folder, const std::string& step, const Gradients& gradients) {
  std::vector<JobFolder::Array> arrays;
  const auto add = [&](const std::string& name, const std::vector<float>& values) {
    arrays.push_back({{name, DType::kF32, {static_cast<int64_t>(values.size())}}, std::as_bytes(std::span<const float>(values))});
  };
  for (const auto& [name, own] : gradients) add(name + kToken, own.token), add(name + kRow, own.row);
  return folder.save_step(step, arrays, {});
}

Result<std::vector<float>> read(const safetensors::Archive& archive, const std::string& name, int64_t count) {
  TQ_ASSIGN(const TensorView view, step_array(archive, name, DType::kF32, count));
  return std::vector<float>(view.as<float>(), view.as<float>() + count);
}

// tokens: of all sequences of the step.
Result<Gradients> load(const JobFolder& folder, const std::string& step, const ModelSpec& spec, int64_t tokens) {
  TQ_ASSIGN(const auto archive, folder.open_step(step));
  std::vector<const Linear*> all = linears(spec);
  all.push_back(&spec.head);
  Gradients out;
  for (const Linear* linear : all) {
    TQ_ASSIGN(out[linear->name].token, read(*archive, linear->name + kToken, tokens));
    TQ_ASSIGN(out[linear->name].row, read(*archive, linear->name + kRow, std::max<int64_t>(1, linear->experts) * linear->out));
  }
  return out;
}

}  // namespace

Result<Gradients> gradient_steps(const Model& model, Backend& backend, const Context& context, JobFolder& folder,
                                 const GradientRequest& request) {
  const auto length = static_cast<int64_t>(request.sequences[0].size());
  const auto count = static_cast<int64_t>(request.sequences.size());
  const int64_t wave = sequences_per_wave(model.spec, length);
  const std::optional<Network> loaded = keep_loaded(model, backend);
  Gradients all;
  for (int64_t first = 0; first < count; first += wave) {
    const std::string step = fmt::format("gradients-{:05}", first);
    const int64_t own = std::min(wave, count - first);
    if (!folder.has_step(step)) {
      const auto sequences = request.sequences.subspan(static_cast<size_t>(first), static_cast<size_t>(own));
      TQ_ASSIGN(const Gradients measured,
                measure_gradients(model, backend, context, {.sequences = sequences, .first_sequence = first, .seed = request.seed}));
      TQ_TRY(save(folder, step, measured));
    }
    TQ_ASSIGN(const Gradients saved, load(folder, step, model.spec, own * length));
    append(all, saved);
    context.listener.progress("gradients", first + own, count);
  }
  return all;
}

}  // namespace tq
