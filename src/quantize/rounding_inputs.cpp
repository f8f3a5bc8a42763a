#include "quantize/rounding_inputs.h"

#include <algorithm>
#include <cmath>

#include "quantize/awq.h"
#include "quantize/round_e8p.h"

namespace tq {
namespace {

bool has_few(const SecondMoment& moment) { return moment.tokens() < moment.columns() / 4; }

void order_input(RoundingInput& input, Buffer<float>& moment) {
  input.order = falling_diagonal(moment, input.columns);
  moment = permuted(moment, input.order);
}

}  // namespace

std::pair<size_t, size_t> RoundingInputs::add(size_t step, const Linear& linear) {
  const std::string& tap = linear.tap;
  const std::vector<uint8_t>& sign = out_[step].signs[tap] = sign_of(tap, linear.in, plan_.options.seed);
  const size_t first = inputs_.size();
  if (linear.experts == 0) {
    if (is_measured(tap)) out_[step].inputs[tap] = {};
    inputs_.push_back({.step = step, .tap = tap, .columns = linear.in, .sign = &sign});
    return {first, 1};
  }
  Statistics& statistics = steps_[step].statistics;
  if (const auto found = statistics.find({tap, -1}); found != statistics.end()) found->second.moment.settle();
  out_[step].experts[tap].assign(static_cast<size_t>(linear.experts), 'i');
  join_experts(statistics, linear);
  for (int64_t expert = 0; expert < linear.experts; ++expert)
    inputs_.push_back({.step = step, .tap = tap, .columns = linear.in, .expert = expert, .sign = &sign});
  return {first, static_cast<size_t>(linear.experts)};
}

void RoundingInputs::drop_objective(size_t input) {
  Objective& objective = inputs_[input].objective;
  const double trace = objective.trace;
  objective = {};
  objective.trace = trace;
}

Status RoundingInputs::check() const {
  for (const RoundingInput& input : inputs_) {
    if (std::isfinite(input.objective.trace)) continue;
    return bad_input(
        "{}: what reaches {} on the calibration text is no finite number: a weight before it is damaged, or activations overflow; fetch "
        "the file again, or quantize a source that tq run answers with",
        model_.source, input.tap);
  }
  return {};
}

const std::vector<float>& RoundingInputs::scale_of(size_t step, const std::string& tap) const {
  const auto found = std::find_if(inputs_.begin(), inputs_.end(),
                                  [&](const RoundingInput& input) { return input.step == step && input.tap == tap && !input.is_expert(); });
  TQ_CHECK(found != inputs_.end());
  return found->scale;
}

// Rows of the embedding are looked up: nothing multiplies them.
bool RoundingInputs::is_measured(const std::string& tap) const { return tap != model_.spec.embedding; }

Method RoundingInputs::method_of(const RoundingInput& input) const {
  for (const TensorPlan& tensor : tensors(input.step))
    if (tensor.linear.tap == input.tap) return tensor.method;
  return Method::kTurboquant;
}

// Makes sure that there is a moment of all tokens where some experts have too few.
void RoundingInputs::join_experts(Statistics& statistics, const Linear& linear) {
  if (statistics.contains({linear.tap, -1})) return;
  bool is_needed = false;
  for (int64_t e = 0; e < linear.experts; ++e) {
    const auto found = statistics.find({linear.tap, e});
    is_needed |= found == statistics.end() || has_few(found->second.moment);
  }
  if (!is_needed) return;
  SecondMoment& sum = shared_.emplace(linear.tap, linear.in).first->second;
  for (int64_t e = 0; e < linear.experts; ++e)
    if (const auto found = statistics.find({linear.tap, e}); found != statistics.end()) sum.add(found->second.moment);
}

// Where a device factors, what is left is spread over the threads input by input.
void RoundingInputs::make_objectives() {
  const StageTimer timer(context_.times, "factors");
  ThreadPool* threads = backend_.quantizer() ? &context_.threads : nullptr;
  const auto make = [&](size_t i) {
    if (!context_.stopped() && !inputs_[i].is_expert()) make_objective_of(inputs_[i], threads), judge(inputs_[i]);
  };
  if (threads) {
    for (size_t i = 0; i < inputs_.size(); ++i) make(i);
    return;
  }
  context_.threads.run(static_cast<int64_t>(inputs_.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) make(static_cast<size_t>(i));
  });
}

// Whether all that is rounded under the input is rounded on the backend's device.
bool RoundingInputs::is_all_for_device(const RoundingInput& input) const {
  return std::all_of(tensors(input.step).begin(), tensors(input.step).end(), [&](const TensorPlan& tensor) {
    return tensor.linear.tap != input.tap || is_rounded_on_device(plan_, tensor, backend_);
  });
}

// Leaves a moment that lies on the device there, if it is only needed there; else it is brought to the host.
bool RoundingInputs::make_objective_on_device(RoundingInput& input, InputStatistics& statistics) {
  SecondMoment& moment = statistics.moment;
  if (moment.device() != &backend_ || !is_all_for_device(input)) return moment.settle(), false;
  auto [sum, weight] = moment.take_sum();
  auto made = objective_on_device(sum, weight, input.columns, input.sign->data(), damping_of(plan_.options), backend_);
  if (made) return input.objective = std::move(*made), true;
  moment.put_back(std::move(sum), backend_);
  return moment.settle(), false;
}

void RoundingInputs::make_objective_of(RoundingInput& input, ThreadPool* threads) {
  Statistics& statistics = steps_[input.step].statistics;
  const auto found = statistics.find({input.tap, input.expert});
  input.tokens = 1;
  if (found != statistics.end()) {
    input.activation_error = found->second.activation.mean();
    if (input.is_expert()) input.tokens = static_cast<double>(found->second.moment.tokens());
    else if (found->second.moment.device() && make_objective_on_device(input, found->second)) return;
    if (!input.is_expert() || !has_few(found->second.moment)) {
      set_objective(input, found->second.moment.take(threads), 'o', threads);
      return;
    }
  } else if (input.is_expert()) {
    input.tokens = 0;
  }
  if (!input.is_expert()) input.objective = identity_objective(input.columns);
  else set_objective(input, shared_moment(input), 's', threads);
}

// Of inputs that are none of an expert's: what there is to say of them, and nothing but weights counts where they say too little.
void RoundingInputs::judge(RoundingInput& input) {
  if (!is_measured(input.tap)) return;
  InputFacts& facts = out_[input.step].inputs.at(input.tap);
  facts.dead = input.objective.dead;
  if (input.objective.diagonal.empty() && input.objective.hessian.empty()) facts.under = 'i';
  if (method_of(input) != Method::kTurboquant || !is_rank_one(input.objective)) return;
  facts.under = 'r';
  input.objective = identity_objective(input.columns);
}

void RoundingInputs::set_objective(RoundingInput& input, Buffer<float> moment, char letter, ThreadPool* threads) {
  const int64_t dead = dead_inputs(moment, input.columns);
  if (const double sum = trace(moment, input.columns); !std::isfinite(sum)) {
    input.objective = identity_objective(input.columns);
    input.objective.trace = sum;  // for check(); what follows compares elements
    return;
  }
  factor(input, std::move(moment), threads);
  input.objective.dead = dead;
  if (!input.is_expert()) return;
  const bool is_identity = input.objective.hessian.empty();
  out_[input.step].experts.at(input.tap)[static_cast<size_t>(input.expert)] = is_identity ? 'i' : letter;
}

// In the basis, order and scale of the input's method.
void RoundingInputs::factor(RoundingInput& input, Buffer<float> moment, ThreadPool* threads) {
  const double damping = damping_of(plan_.options);
  const Method method = method_of(input);
  if (method == Method::kQuip) {
    input.objective = e8p_objective(std::move(moment), input.columns, input.sign->data(), damping);
    return;
  }
  if (method == Method::kTurboquant) rotate_hessian(moment, input.columns, input.sign->data(), threads);
  if (method == Method::kAwq) scale_input(input, moment, threads);
  const bool has_feedback = method == Method::kTurboquant || method == Method::kGptq;
  if (has_feedback && uses_act_order(plan_.options)) order_input(input, moment);
  input.objective = factored_objective(std::move(moment), input.columns, damping, 1, backend_.quantizer());
  if (!has_feedback) input.objective.feedback = {}, input.objective.diagonal.clear();
}

// AWQ: finds the scales of an input that something before it can take, and brings its second moment to x / s.
void RoundingInputs::scale_input(RoundingInput& input, Buffer<float>& moment, ThreadPool* threads) {
  const auto& folds = steps_[input.step].folds;
  if (std::none_of(folds.begin(), folds.end(), [&](const Fold& fold) { return fold.tap == input.tap; })) return;
  std::vector<awq::Reader> readers;
  awq::Input search{.columns = input.columns, .hessian = &moment};
  for (const TensorPlan& tensor : tensors(input.step)) {
    if (tensor.linear.tap != input.tap) continue;
    readers.push_back({decode(*model_.find(tensor.linear.name + ".weight")), tensor.linear.out, tensor.bits()});
    search.group = tensor.group;
  }
  const std::vector<double> magnitude = steps_[input.step].statistics.at({input.tap, -1}).magnitude.mean();
  search.magnitude = magnitude;
  input.scale = awq::search_scales(search, readers, threads);
  for (int64_t i = 0; i < input.columns; ++i)
    for (int64_t j = 0; j < input.columns; ++j)
      moment[static_cast<size_t>(i * input.columns + j)] /= input.scale[static_cast<size_t>(i)] * input.scale[static_cast<size_t>(j)];
}

// A copy of the second moment over all experts' tokens.
Buffer<float> RoundingInputs::shared_moment(const RoundingInput& input) const {
  const auto& statistics = steps_[input.step].statistics;
  if (const auto found = statistics.find({input.tap, -1}); found != statistics.end()) return found->second.moment.mean();
  return shared_.at(input.tap).mean();
}

}  // namespace tq
