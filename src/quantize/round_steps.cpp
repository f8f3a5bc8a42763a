#include "quantize/round_steps.h"

#include <algorithm>
#include <cmath>

namespace tq {
namespace {

constexpr int64_t kTallRows = 16384;  // matrices of so many rows get all threads, one after another

// What the matrices of a tap point, or of one expert of it, are rounded under.
struct Input {
  size_t step = 0;
  std::string tap;
  int64_t columns = 0, expert = -1;  // -1: no stack
  const std::vector<uint8_t>* sign = nullptr;
  Objective objective;
  std::vector<double> activation_error;
  double tokens = 1;
};

// Matrices of one input that are rounded by one thread in one go.
struct Work {
  size_t input = 0;
  std::vector<size_t> tensors;
  double cost = 0;
};

class StepRounder {
 public:
  StepRounder(const Model& model, const QuantizePlan& plan, std::vector<PendingStep>& steps, const Context& context)
      : model_(model), plan_(plan), steps_(steps), context_(context), out_(steps.size()), matrices_(steps.size()) {}

  Result<std::vector<RoundedStep>> run() {
    collect();
    parallel(inputs_.size(), [&](size_t i) {
      if (inputs_[i].expert < 0) make_objective_of(inputs_[i]);
    });
    std::stable_sort(work_.begin(), work_.end(), [](const Work& a, const Work& b) { return a.cost > b.cost; });
    parallel(work_.size(), [&](size_t i) { run_work(work_[i]); });
    for (const Work& work : tall_)
      if (!context_.stopped()) round_matrices(work, inputs_[work.input], &context_.threads);
    for (PendingStep& step : steps_) step.statistics.clear();
    if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    TQ_TRY(join());
    return std::move(out_);
  }

 private:
  const std::vector<TensorPlan>& tensors(size_t step) const { return *steps_[step].tensors; }

  void parallel(size_t count, const std::function<void(size_t)>& work) {
    context_.threads.run(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        if (!context_.stopped()) work(static_cast<size_t>(i));
    });
  }

  // The inputs with what reads them, the widest inputs first.
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
      for (const auto& [tap, indices] : readers) collect(step, tap, indices);
    }
  }

  void collect(size_t step, const std::string& tap, const std::vector<size_t>& indices) {
    const Linear& linear = tensors(step)[indices[0]].linear;
    const auto& sign = out_[step].signs[tap] = sign_of(tap, linear.in, plan_.options.seed);
    if (linear.experts > 0) {
      std::string& letters = out_[step].experts[tap];
      letters.assign(static_cast<size_t>(linear.experts), 'i');
      join_experts(steps_[step].statistics, tap, linear.in, linear.experts);
    }
    for (int64_t expert = linear.experts > 0 ? 0 : -1; expert < linear.experts; ++expert) {
      const size_t input = inputs_.size();
      inputs_.push_back({.step = step, .tap = tap, .columns = linear.in, .expert = expert, .sign = &sign});
      if (expert >= 0) {
        work_.push_back({input, indices, static_cast<double>(linear.in * linear.out) * static_cast<double>(indices.size())});
        continue;
      }
      for (const size_t i : indices) {
        const Linear& each = tensors(step)[i].linear;
        Work work{input, {i}, static_cast<double>(each.in) * static_cast<double>(each.out)};
        (each.out >= kTallRows ? tall_ : work_).push_back(std::move(work));
      }
      if (linear.experts == 0) break;
    }
  }

  // Makes sure that there is a moment of all tokens where some experts have too few.
  void join_experts(Statistics& statistics, const std::string& tap, int64_t columns, int64_t experts) {
    if (statistics.contains({tap, -1})) return;
    bool is_needed = false;
    for (int64_t e = 0; e < experts; ++e) {
      const auto found = statistics.find({tap, e});
      is_needed |= found == statistics.end() || has_few(found->second.moment);
    }
    if (!is_needed) return;
    SecondMoment& sum = shared_.emplace(tap, columns).first->second;
    for (int64_t e = 0; e < experts; ++e)
      if (const auto found = statistics.find({tap, e}); found != statistics.end()) sum.add(found->second.moment);
  }

  static bool has_few(const SecondMoment& moment) { return moment.tokens() < moment.columns() / 4; }

  void make_objective_of(Input& input) {
    Statistics& statistics = steps_[input.step].statistics;
    const auto found = statistics.find({input.tap, input.expert});
    input.tokens = 1;
    if (found != statistics.end()) {
      input.activation_error = found->second.activation.mean();
      if (input.expert >= 0) input.tokens = static_cast<double>(found->second.moment.tokens());
      if (input.expert < 0 || !has_few(found->second.moment)) {
        set_objective(input, found->second.moment.take(), 'o');
        return;
      }
    } else if (input.expert >= 0) {
      input.tokens = 0;
    }
    if (input.expert < 0) input.objective = identity_objective(input.columns);
    else set_objective(input, shared_moment(input), 's');
  }

  void set_objective(Input& input, Buffer<float> moment, char letter) {
    input.objective = make_objective(std::move(moment), input.columns, input.sign->data(), plan_.options.damping);
    if (input.expert < 0) return;
    const bool is_identity = input.objective.hessian.empty();
    out_[input.step].experts.at(input.tap)[static_cast<size_t>(input.expert)] = is_identity ? 'i' : letter;
  }

  // A copy of the second moment over all experts' tokens.
  Buffer<float> shared_moment(const Input& input) const {
    const auto& statistics = steps_[input.step].statistics;
    if (const auto found = statistics.find({input.tap, -1}); found != statistics.end()) return found->second.moment.mean();
    return shared_.at(input.tap).mean();
  }

  void run_work(const Work& work) {
    Input& input = inputs_[work.input];
    if (input.expert >= 0) make_objective_of(input);
    round_matrices(work, input, nullptr);
    if (input.expert >= 0) input.objective = {};
  }

  void round_matrices(const Work& work, const Input& input, ThreadPool* threads) {
    for (const size_t i : work.tensors) {
      const TensorPlan& tensor = tensors(input.step)[i];
      const int64_t rows = tensor.linear.out, expert = std::max<int64_t>(0, input.expert);
      const PackedTensor& stored = *model_.find(tensor.linear.name + ".weight");
      const size_t ranges = tensor.rates.size() / static_cast<size_t>(std::max<int64_t>(1, tensor.linear.experts));
      matrices_[input.step][i][static_cast<size_t>(expert)] = round_to_grid(
          {.weight = [&](int64_t first, int64_t count, float* out) { decode_rows(stored, expert * rows + first, count, out); },
           .rows = rows,
           .columns = input.columns,
           .sign = input.sign->data(),
           .objective = &input.objective,
           .activation_error = input.activation_error,
           .rates = std::span(tensor.rates).subspan(static_cast<size_t>(expert) * ranges, ranges),
           .taps = &plan_.taps,
           .isa = best_isa(),
           .threads = threads});
      Loss& loss = matrices_[input.step][i][static_cast<size_t>(expert)].loss;
      if (input.expert < 0) continue;
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
          if (!std::isfinite(matrix.loss.energy))  // only if the weights, and everything before them, are
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
  const Context& context_;
  std::vector<RoundedStep> out_;
  std::vector<std::vector<std::vector<Rounded>>> matrices_;  // [step][tensor][expert]
  std::vector<Input> inputs_;
  std::vector<Work> work_, tall_;
  std::map<std::string, SecondMoment> shared_;  // of all experts, by tap point
};

}  // namespace

Result<std::vector<RoundedStep>> round_steps(const Model& model, const QuantizePlan& plan, std::vector<PendingStep>& steps,
                                             const Context& context) {
  return StepRounder(model, plan, steps, context).run();
}

}  // namespace tq
