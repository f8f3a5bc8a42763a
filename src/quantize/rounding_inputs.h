// What the matrices of several steps are rounded under: an objective for each input, a tap point or an expert of one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "quantize/objective.h"
#include "quantize/round_steps.h"

namespace tq {

// What the matrices of a tap point, or of one expert of it, are rounded under.
struct RoundingInput {
  size_t step = 0;
  std::string tap;
  int64_t columns = 0, expert = -1;  // -1: no stack
  const std::vector<uint8_t>* sign = nullptr;
  Objective objective;
  std::vector<double> activation_error;
  std::vector<int64_t> order;  // GPTQ's; empty: as they are
  std::vector<float> scale;    // AWQ's, [C]; empty: ones
  double tokens = 1;

  bool is_expert() const { return expert >= 0; }
};

class RoundingInputs {
 public:
  // out: takes what there is to say of the inputs. All of them are to outlive the object.
  RoundingInputs(const Model& model, const QuantizePlan& plan, std::vector<PendingStep>& steps, Backend& backend, const Context& context,
                 std::vector<RoundedStep>& out)
      : model_(model), plan_(plan), steps_(steps), backend_(backend), context_(context), out_(out) {}

  // The inputs of a tap point that a linear reads: one, or one an expert. The place of the first, and how many there are.
  std::pair<size_t, size_t> add(size_t step, const Linear& linear);
  // Of all inputs but experts', whose objectives would take too much memory together.
  void make_objectives();
  // Of an expert, by the caller's thread; and when it is no longer needed, but for what check() looks at.
  void make_objective(size_t input) { make_objective_of(inputs_[input], nullptr); }
  void drop_objective(size_t input);
  // Errors: kBadInput for inputs that are no finite numbers.
  Status check() const;

  const RoundingInput& operator[](size_t input) const { return inputs_[input]; }
  // The scales that AWQ found for a tap point's input.
  const std::vector<float>& scale_of(size_t step, const std::string& tap) const;

 private:
  const std::vector<TensorPlan>& tensors(size_t step) const { return *steps_[step].tensors; }
  bool is_measured(const std::string& tap) const;
  Method method_of(const RoundingInput& input) const;
  void join_experts(Statistics& statistics, const Linear& linear);
  bool is_all_for_device(const RoundingInput& input) const;
  bool make_objective_on_device(RoundingInput& input, InputStatistics& statistics);
  void make_objective_of(RoundingInput& input, ThreadPool* threads);
  void judge(RoundingInput& input);
  void set_objective(RoundingInput& input, Buffer<float> moment, char letter, ThreadPool* threads);
  void factor(RoundingInput& input, Buffer<float> moment, ThreadPool* threads);
  void scale_input(RoundingInput& input, Buffer<float>& moment, ThreadPool* threads);
  Buffer<float> shared_moment(const RoundingInput& input) const;

  const Model& model_;
  const QuantizePlan& plan_;
  std::vector<PendingStep>& steps_;
  Backend& backend_;
  const Context& context_;
  std::vector<RoundedStep>& out_;
  std::vector<RoundingInput> inputs_;
  std::map<std::string, SecondMoment> shared_;  // of all experts, by tap point
};

}  // namespace tq
