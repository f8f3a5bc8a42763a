#include "quantize/candidates.h"

#include <future>

#include "quantize/rounded_layer.h"
#include "quantize/rounded_model.h"
#include "quantize/stream.h"

namespace tq {
namespace {

constexpr Effort kEffort = Effort::kFast;  // of the windows

std::string array_of(const Linear& linear, int rate, std::string_view part) { return fmt::format("{}.{}.{}", linear.name, rate, part); }

// What the tensors of the candidate models point into.
struct Shared {
  grid::TapsByRate taps = taps_of(kEffort);
  std::map<std::string, std::vector<uint8_t>> signs;  // by tap point
  StepArchives layers;
};

// The plan of all candidates of a layer: every linear once for each rate.
QuantizePlan candidate_plan(const CandidateRequest& request) {
  QuantizePlan plan;
  plan.options = request.plan.options;
  plan.options.passes = 0;
  plan.options.calibration_tokens = static_cast<int64_t>(request.sequences.size() * request.sequences[0].size());
  plan.taps = taps_of(kEffort);
  for (const auto& layer : request.plan.layers) plan.layers.push_back(candidate_tensors(layer, request.rates));
  return plan;
}

Status save(JobFolder& folder, size_t layer, const std::vector<TensorPlan>& tensors, const RoundedStep& rounded) {
  std::vector<JobFolder::Array> arrays;
  for (size_t i = 0; i < tensors.size(); ++i)
    for (const RoundedPart& part : rounded.tensors[i].parts)
      arrays.push_back({{array_of(tensors[i].linear, tensors[i].rates[0], part.name),
                         part.dtype,
                         {static_cast<int64_t>(part.bytes.size() / dtype_size(part.dtype))}},
                        part.bytes});
  return folder.save_step(candidates_step(layer), arrays, {});
}

// A layer is written while the next one is made.
class Saving {
 public:
  template <typename Save>
  void start(Save save) {
    const auto shared = std::make_shared<Save>(std::move(save));
    try {
      status_ = std::async(std::launch::async, [shared] { return (*shared)(); });
    } catch (const std::system_error&) {  // no thread to be had: it is written when it is asked for
      status_ = std::async(std::launch::deferred, [shared] { return (*shared)(); });
    }
  }
  Status finish() { return status_.valid() ? status_.get() : Status(); }

 private:
  std::future<Status> status_;
};

TensorView bytes_view(const std::vector<uint8_t>& bytes) {
  return {DType::kU8, {static_cast<int64_t>(bytes.size())}, reinterpret_cast<const std::byte*>(bytes.data())};
}

// Of one rate, by the names that they have in an artifact.
StepArrays arrays_at(const CandidateRequest& request, int rate, const Shared& shared) {
  StepArrays arrays;
  for (size_t layer = 0; layer < shared.layers.size(); ++layer)
    for (const TensorPlan& tensor : request.plan.layers[layer]) {
      const Linear& linear = tensor.linear;
      for (const char* part : {"bits", "row_scale", "rates"})
        if (const TensorView* view = shared.layers[layer]->find(array_of(linear, rate, part))) arrays[linear.name + "." + part] = *view;
      arrays[linear.tap + ".sign"] = bytes_view(shared.signs.at(linear.tap));
    }
  return arrays;
}

Result<Candidates> open_candidates(const CandidateRequest& request, const JobFolder& folder) {
  const auto shared = std::make_shared<Shared>();
  for (size_t layer = 0; layer < request.plan.layers.size(); ++layer) {
    TQ_ASSIGN(auto archive, folder.open_step(candidates_step(layer)));
    shared->layers.push_back(std::move(archive));
    for (const TensorPlan& tensor : request.plan.layers[layer])
      if (const auto [sign, is_new] = shared->signs.try_emplace(tensor.linear.tap); is_new)
        sign->second = sign_of(tensor.linear.tap, tensor.linear.in, request.plan.options.seed);
  }
  Candidates out;
  for (const int rate : request.rates) {
    std::vector<TensorPlan> tensors;
    for (const auto& layer : request.plan.layers)
      for (TensorPlan& tensor : candidate_tensors(layer, {&rate, 1})) tensors.push_back(std::move(tensor));
    TQ_ASSIGN(Model model, with_rounded(request.model, tensors, shared->taps, arrays_at(request, rate, *shared), shared));
    out.emplace(rate, std::move(model));
  }
  return out;
}

}  // namespace

std::vector<TensorPlan> candidate_tensors(const std::vector<TensorPlan>& layer, std::span<const int> rates) {
  std::vector<TensorPlan> out;
  for (const int rate : rates)
    for (const TensorPlan& tensor : layer) out.push_back({tensor.linear, constant_rates(tensor.linear, rate)});
  return out;
}

std::string candidates_step(size_t layer) { return fmt::format("candidates-{:05}", layer); }

Result<Candidates> candidate_steps(const CandidateRequest& request, Backend& backend, const Context& context, JobFolder& folder) {
  const size_t layers = request.plan.layers.size();
  size_t needed = 0;
  for (size_t layer = 0; layer < layers; ++layer)
    if (!folder.has_step(candidates_step(layer))) needed = layer + 1;
  if (needed > 0) {
    const QuantizePlan plan = candidate_plan(request);
    TQ_ASSIGN(Stream stream, Stream::create(request.model, backend, context,
                                            {.sequences = request.sequences, .options = plan.options, .weights = request.weights}));
    Saving saving;
    for (size_t layer = 0; layer < needed; ++layer) {
      const bool is_done = folder.has_step(candidates_step(layer));
      std::vector<PendingStep> steps(1);
      steps[0].tensors = &plan.layers[layer];
      TQ_TRY(stream.advance(is_done ? nullptr : &steps[0].statistics));
      if (!is_done) {
        TQ_ASSIGN(std::vector<RoundedStep> rounded, round_steps(request.model, plan, steps, backend, context));
        const StageTimer timer(context.times, "saving");
        TQ_TRY(saving.finish());
        saving.start([&folder, &plan, layer, step = std::move(rounded[0])] { return save(folder, layer, plan.layers[layer], step); });
      }
      context.listener.progress("candidates", static_cast<int64_t>(layer + 1), static_cast<int64_t>(needed));
    }
    TQ_TRY(saving.finish());
  }
  return open_candidates(request, folder);
}

}  // namespace tq
