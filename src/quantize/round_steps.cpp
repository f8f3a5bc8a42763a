#include "quantize/round_steps.h"

#include <algorithm>
#include <cmath>

#include "quantize/device_rounding.h"
#include "quantize/matrix_rounder.h"
#include "quantize/rounding_inputs.h"

namespace tq {
namespace {

constexpr int64_t kTallRows = 16384;  // matrices of so many rows get all threads, one after another

// Matrices of one input that are rounded by one thread in one go.
struct Work {
  size_t input = 0;
  std::vector<size_t> tensors;
  double cost = 0;
};

// Shares the matrices of all steps out among the threads and the device, and puts together what they give.
class StepRounder {
 public:
  StepRounder(const Model& model, const QuantizePlan& plan, std::vector<PendingStep>& steps, Backend& backend, const Context& context)
      : model_(model),
        plan_(plan),
        steps_(steps),
        backend_(backend),
        context_(context),
        out_(steps.size()),
        matrices_(steps.size()),
        inputs_(model, plan, steps, backend, context, out_),
        rounder_(model, plan, steps, inputs_, backend.isa()) {}

  Result<std::vector<RoundedStep>> run() {
    collect();
    inputs_.make_objectives();
    TQ_TRY(inputs_.check());
    const StageTimer timer(context_.times, "rounding");
    if (backend_.quantizer()) TQ_TRY(let_device_round());
    round_on_threads();
    for (PendingStep& step : steps_) step.statistics.clear();
    for (size_t step = 0; step < steps_.size(); ++step) out_[step].changed = rounder_.changed_vectors(step);
    if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    TQ_TRY(inputs_.check());  // of experts, too
    TQ_TRY(join());
    return std::move(out_);
  }

 private:
  const std::vector<TensorPlan>& tensors(size_t step) const { return *steps_[step].tensors; }
  const TensorPlan& first_tensor(const Work& work) const { return tensors(inputs_[work.input].step)[work.tensors[0]]; }

  // The inputs with what reads them.
  void collect() {
    for (size_t step = 0; step < steps_.size(); ++step) {
      out_[step].tensors.resize(tensors(step).size());
      matrices_[step].resize(tensors(step).size());
      std::map<std::string, std::vector<size_t>> readers;
      for (size_t i = 0; i < tensors(step).size(); ++i) {
        const Linear& linear = tensors(step)[i].linear;
        readers[linear.tap].push_back(i);
        matrices_[step][i].resize(static_cast<size_t>(std::max<int64_t>(1, linear.experts)));
      }
      for (const auto& [tap, indices] : readers) collect(step, indices);
    }
  }

  // Experts with all their matrices, since their objectives are made and dropped with them; others matrix by matrix.
  void collect(size_t step, const std::vector<size_t>& indices) {
    const Linear& linear = tensors(step)[indices[0]].linear;
    const auto [first, count] = inputs_.add(step, linear);
    if (linear.experts > 0) {
      const double cost = static_cast<double>(linear.in * linear.out) * static_cast<double>(indices.size());
      for (size_t input = first; input < first + count; ++input) work_.push_back({input, indices, cost});
      return;
    }
    for (const size_t i : indices) {
      const Linear& each = tensors(step)[i].linear;
      Work work{first, {i}, static_cast<double>(each.in) * static_cast<double>(each.out)};
      (each.out >= kTallRows ? tall_ : work_).push_back(std::move(work));
    }
  }

  // What the device takes of the work, matrices of the same width together.
  Status let_device_round() {
    std::map<int64_t, std::vector<Work>> by_width;
    for (std::vector<Work>* list : {&work_, &tall_})
      std::erase_if(*list, [&](const Work& work) {
        if (!is_rounded_on_device(plan_, first_tensor(work), backend_)) return false;
        by_width[inputs_[work.input].columns].push_back(work);
        return true;
      });
    for (const auto& [columns, all] : by_width) {
      std::vector<RoundRequest> requests;
      for (const Work& work : all) requests.push_back(rounder_.grid_request(first_tensor(work), inputs_[work.input], nullptr));
      TQ_ASSIGN(std::vector<Rounded> rounded, round_on_device(requests, backend_, context_));
      for (size_t i = 0; i < all.size(); ++i) matrices_[inputs_[all[i].input].step][all[i].tensors[0]][0] = std::move(rounded[i]);
    }
    return {};
  }

  // The most expensive first, so that the last to end is a small one.
  void round_on_threads() {
    share_threads();
    std::stable_sort(work_.begin(), work_.end(), [](const Work& a, const Work& b) { return a.cost > b.cost; });
    context_.threads.run(static_cast<int64_t>(work_.size()), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        if (!context_.stopped()) run_work(work_[static_cast<size_t>(i)]);
    });
    for (const Work& work : tall_)
      if (!context_.stopped()) round_matrices(work, &context_.threads);
  }

  // The rivals' matrices get all threads one after another where there are fewer of them than threads.
  void share_threads() {
    if (work_.empty() || work_.size() >= static_cast<size_t>(context_.threads.size())) return;
    std::erase_if(work_, [&](const Work& work) {
      if (inputs_[work.input].is_expert() || first_tensor(work).method == Method::kTurboquant) return false;
      tall_.push_back(work);
      return true;
    });
  }

  void run_work(const Work& work) {
    const bool is_expert = inputs_[work.input].is_expert();
    if (is_expert) inputs_.make_objective(work.input);
    round_matrices(work, nullptr);
    if (is_expert) inputs_.drop_objective(work.input);
  }

  void round_matrices(const Work& work, ThreadPool* threads) {
    const RoundingInput& input = inputs_[work.input];
    for (const size_t i : work.tensors) {
      Rounded& matrix = matrices_[input.step][i][static_cast<size_t>(std::max<int64_t>(0, input.expert))];
      matrix = rounder_.round(tensors(input.step)[i], input, threads);
      if (!input.is_expert()) continue;
      Loss& loss = matrix.loss;
      loss.error *= input.tokens, loss.energy *= input.tokens;
      loss.measured_error *= input.tokens, loss.activation_error *= input.tokens;
    }
  }

  // Experts one after another.
  Status join() {
    for (size_t step = 0; step < steps_.size(); ++step) {
      for (size_t i = 0; i < matrices_[step].size(); ++i) {
        RoundedTensor& tensor = out_[step].tensors[i];
        for (Rounded& matrix : matrices_[step][i]) {
          if (!std::isfinite(matrix.loss.energy))
            return bad_input(
                "{}: {}.weight, or a weight before it, holds a value that is no finite number; the file is damaged, fetch it again",
                model_.source, tensors(step)[i].linear.name);
          add(tensor, matrix);
        }
      }
    }
    return {};
  }

  static void add(RoundedTensor& tensor, Rounded& matrix) {
    tensor.loss.error += matrix.loss.error, tensor.loss.energy += matrix.loss.energy;
    tensor.loss.measured_error += matrix.loss.measured_error, tensor.loss.activation_error += matrix.loss.activation_error;
    if (tensor.parts.empty()) {
      tensor.parts = std::move(matrix.parts);
      return;
    }
    for (size_t p = 0; p < matrix.parts.size(); ++p) {
      auto& bytes = tensor.parts[p].bytes;
      bytes.insert(bytes.end(), matrix.parts[p].bytes.begin(), matrix.parts[p].bytes.end());
    }
    matrix.parts.clear();
  }

  const Model& model_;
  const QuantizePlan& plan_;
  std::vector<PendingStep>& steps_;
  Backend& backend_;
  const Context& context_;
  std::vector<RoundedStep> out_;
  std::vector<std::vector<std::vector<Rounded>>> matrices_;  // [step][tensor][expert]
  RoundingInputs inputs_;
  MatrixRounder rounder_;
  std::vector<Work> work_, tall_;
};

}  // namespace

bool is_rounded_on_device(const QuantizePlan& plan, const TensorPlan& tensor, Backend& backend) {
  return backend.quantizer() && tensor.method == Method::kTurboquant && tensor.linear.experts == 0 && !uses_act_order(plan.options) &&
         plan.options.passes == 0 && device_can_round(tensor.rates, tensor.linear.out, plan.taps);
}

Result<std::vector<RoundedStep>> round_steps(const Model& model, const QuantizePlan& plan, std::vector<PendingStep>& steps,
                                             Backend& backend, const Context& context) {
  return StepRounder(model, plan, steps, backend, context).run();
}

}  // namespace tq
