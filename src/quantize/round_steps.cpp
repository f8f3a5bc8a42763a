#include "quantize/round_steps.h"

#include <algorithm>
#include <cmath>

#include "quantize/awq.h"
#include "quantize/device_rounding.h"
#include "quantize/round_e8p.h"
#include "quantize/round_scalar.h"

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
  std::vector<int64_t> order;  // GPTQ's; empty: as they are
  std::vector<float> scale;    // AWQ's, [C]; empty: ones
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
  StepRounder(const Model& model, const QuantizePlan& plan, std::vector<PendingStep>& steps, Backend& backend, const Context& context)
      : model_(model), plan_(plan), steps_(steps), backend_(backend), context_(context), out_(steps.size()), matrices_(steps.size()) {}

  Result<std::vector<RoundedStep>> run() {
    collect();
    make_objectives();
    TQ_TRY(check_inputs());
    const StageTimer timer(context_.times, "rounding");
    if (backend_.quantizer()) TQ_TRY(run_on_device());
    share_threads();
    std::stable_sort(work_.begin(), work_.end(), [](const Work& a, const Work& b) { return a.cost > b.cost; });
    parallel(work_.size(), [&](size_t i) { run_work(work_[i]); });
    for (const Work& work : tall_)
      if (!context_.stopped()) round_matrices(work, inputs_[work.input], &context_.threads);
    for (PendingStep& step : steps_) step.statistics.clear();
    for (size_t step = 0; step < steps_.size(); ++step) change_plain(step);
    if (context_.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
    TQ_TRY(check_inputs());  // of experts, too
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
    const std::vector<uint8_t>& sign = out_[step].signs[tap] = sign_of(tap, linear.in, plan_.options.seed);
    if (linear.experts == 0 && is_measured(tap)) out_[step].inputs[tap] = {};
    if (linear.experts > 0) {
      if (const auto found = steps_[step].statistics.find({tap, -1}); found != steps_[step].statistics.end()) found->second.moment.settle();
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

  Status check_inputs() const {
    for (const Input& input : inputs_) {
      if (std::isfinite(input.objective.trace)) continue;
      return bad_input(
          "{}: what reaches {} on the calibration text is no finite number: a weight before it is damaged, or activations overflow; fetch "
          "the file again, or quantize a source that tq run answers with",
          model_.source, input.tap);
    }
    return {};
  }

  // Rows of the embedding are looked up: nothing multiplies them.
  bool is_measured(const std::string& tap) const { return tap != model_.spec.embedding; }

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

  // Where a device factors, what is left is spread over the threads input by input.
  void make_objectives() {
    const StageTimer timer(context_.times, "factors");
    ThreadPool* threads = backend_.quantizer() ? &context_.threads : nullptr;
    const auto make = [&](size_t i) {
      if (inputs_[i].expert < 0) make_objective_of(inputs_[i], threads), judge(inputs_[i]);
    };
    if (!threads) return parallel(inputs_.size(), make);
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (!context_.stopped()) make(i);
  }

  static bool has_few(const SecondMoment& moment) { return moment.tokens() < moment.columns() / 4; }

  // Whether all that is rounded under the input is rounded on the backend's device.
  bool is_all_for_device(const Input& input) const {
    return std::all_of(tensors(input.step).begin(), tensors(input.step).end(), [&](const TensorPlan& tensor) {
      return tensor.linear.tap != input.tap || is_rounded_on_device(plan_, tensor, backend_);
    });
  }

  // Leaves a moment that lies on the device there, if it is only needed there; else it is brought to the host.
  bool make_objective_on_device(Input& input, InputStatistics& statistics) {
    SecondMoment& moment = statistics.moment;
    if (moment.device() != &backend_ || !is_all_for_device(input)) return moment.settle(), false;
    auto [sum, weight] = moment.take_sum();
    auto made = objective_on_device(sum, weight, input.columns, input.sign->data(), damping_of(plan_.options), backend_);
    if (made) return input.objective = std::move(*made), true;
    moment.put_back(std::move(sum), backend_);
    return moment.settle(), false;
  }

  void make_objective_of(Input& input, ThreadPool* threads) {
    Statistics& statistics = steps_[input.step].statistics;
    const auto found = statistics.find({input.tap, input.expert});
    input.tokens = 1;
    if (found != statistics.end()) {
      input.activation_error = found->second.activation.mean();
      if (input.expert >= 0) input.tokens = static_cast<double>(found->second.moment.tokens());
      else if (found->second.moment.device() && make_objective_on_device(input, found->second)) return;
      if (input.expert < 0 || !has_few(found->second.moment)) {
        set_objective(input, found->second.moment.take(threads), 'o', threads);
        return;
      }
    } else if (input.expert >= 0) {
      input.tokens = 0;
    }
    if (input.expert < 0) input.objective = identity_objective(input.columns);
    else set_objective(input, shared_moment(input), 's', threads);
  }

  // Of inputs that are none of an expert's: what there is to say of them, and nothing but weights counts where they say too little.
  void judge(Input& input) {
    if (!is_measured(input.tap)) return;
    InputFacts& facts = out_[input.step].inputs.at(input.tap);
    facts.dead = input.objective.dead;
    if (input.objective.diagonal.empty() && input.objective.hessian.empty()) facts.under = 'i';
    if (method_of(input) != Method::kTurboquant || !is_rank_one(input.objective)) return;
    facts.under = 'r';
    input.objective = identity_objective(input.columns);
  }

  Method method_of(const Input& input) const {
    for (const TensorPlan& tensor : tensors(input.step))
      if (tensor.linear.tap == input.tap) return tensor.method;
    return Method::kTurboquant;
  }

  void set_objective(Input& input, Buffer<float> moment, char letter, ThreadPool* threads) {
    const double damping = damping_of(plan_.options);
    const Method method = method_of(input);
    const int64_t dead = dead_inputs(moment, input.columns);
    if (const double sum = trace(moment, input.columns); !std::isfinite(sum)) {
      input.objective = identity_objective(input.columns);
      input.objective.trace = sum;  // for check_inputs; what follows compares elements
      return;
    }
    if (method == Method::kTurboquant) {
      rotate_hessian(moment, input.columns, input.sign->data(), threads);
      if (uses_act_order(plan_.options)) order_input(input, moment);
      input.objective = factored_objective(std::move(moment), input.columns, damping, 1, backend_.quantizer());
    } else if (method == Method::kQuip) {
      input.objective = e8p_objective(std::move(moment), input.columns, input.sign->data(), damping);
    } else {
      if (method == Method::kAwq) scale_input(input, moment, threads);
      if (method == Method::kGptq && uses_act_order(plan_.options)) order_input(input, moment);
      input.objective = factored_objective(std::move(moment), input.columns, damping, 1, backend_.quantizer());
      if (method != Method::kGptq) input.objective.feedback = {}, input.objective.diagonal.clear();
    }
    input.objective.dead = dead;
    if (input.expert < 0) return;
    const bool is_identity = input.objective.hessian.empty();
    out_[input.step].experts.at(input.tap)[static_cast<size_t>(input.expert)] = is_identity ? 'i' : letter;
  }

  static void order_input(Input& input, Buffer<float>& moment) {
    input.order = falling_diagonal(moment, input.columns);
    moment = permuted(moment, input.order);
  }

  // AWQ: finds the scales of an input that something before it can take, and brings its second moment to x / s.
  void scale_input(Input& input, Buffer<float>& moment, ThreadPool* threads) {
    const auto& folds = steps_[input.step].folds;
    if (std::none_of(folds.begin(), folds.end(), [&](const Fold& fold) { return fold.tap == input.tap; })) return;
    std::vector<awq::Reader> readers;
    awq::Input search{.columns = input.columns, .hessian = &moment};
    for (const TensorPlan& tensor : tensors(input.step)) {
      if (tensor.linear.tap != input.tap) continue;
      readers.push_back({decode(*model_.find(tensor.linear.name + ".weight")), tensor.linear.out});
      search.group = tensor.group, search.bits = tensor.bits();
    }
    const std::vector<double> magnitude = steps_[input.step].statistics.at({input.tap, -1}).magnitude.mean();
    search.magnitude = magnitude;
    input.scale = awq::search_scales(search, readers, threads);
    for (int64_t i = 0; i < input.columns; ++i)
      for (int64_t j = 0; j < input.columns; ++j)
        moment[static_cast<size_t>(i * input.columns + j)] /= input.scale[static_cast<size_t>(i)] * input.scale[static_cast<size_t>(j)];
  }

  const Input* input_of(size_t step, const std::string& tap) const {
    for (const Input& input : inputs_)
      if (input.step == step && input.tap == tap && input.expert < 0) return &input;
    return nullptr;
  }

  // What the rows of a linear, from fold.first_row on, are divided by; empty: nothing.
  std::span<const float> divisors(size_t step, const std::string& name, int64_t* first_row) const {
    for (const Fold& fold : steps_[step].folds) {
      if (fold.is_norm || fold.name != name) continue;
      *first_row = fold.first_row;
      return input_of(step, fold.tap)->scale;
    }
    return {};
  }

  // Norms and biases that take the scales of the inputs they lead to.
  void change_plain(size_t step) {
    for (const Fold& fold : steps_[step].folds) {
      if (!fold.is_norm && !fold.has_bias) continue;
      const std::string name = fold.name + (fold.is_norm ? ".weight" : ".bias");
      const Buffer<float> old = decode(*model_.find(name));
      std::vector<float> values(old.begin(), old.end());
      const float offset = fold.is_norm ? model_.spec.norm_offset : 0.0f;
      const std::vector<float>& scale = input_of(step, fold.tap)->scale;
      for (size_t k = 0; k < scale.size(); ++k) {
        float& value = values[static_cast<size_t>(fold.first_row) + k];
        value = (value + offset) / scale[k] - offset;
      }
      out_[step].changed[name] = std::move(values);
    }
  }

  // A copy of the second moment over all experts' tokens.
  Buffer<float> shared_moment(const Input& input) const {
    const auto& statistics = steps_[input.step].statistics;
    if (const auto found = statistics.find({input.tap, -1}); found != statistics.end()) return found->second.moment.mean();
    return shared_.at(input.tap).mean();
  }

  // The rivals' matrices get all threads one after another where there are fewer of them than threads.
  void share_threads() {
    if (work_.empty() || work_.size() >= static_cast<size_t>(context_.threads.size())) return;
    std::erase_if(work_, [&](const Work& work) {
      const Input& input = inputs_[work.input];
      if (input.expert >= 0 || tensors(input.step)[work.tensors[0]].method == Method::kTurboquant) return false;
      tall_.push_back(work);
      return true;
    });
  }

  void run_work(const Work& work) {
    Input& input = inputs_[work.input];
    if (input.expert >= 0) make_objective_of(input, nullptr);
    round_matrices(work, input, nullptr);
    if (input.expert >= 0) input.objective = {};
  }

  // What the device takes of the work, matrices of the same width together.
  Status run_on_device() {
    std::map<int64_t, std::vector<Work>> by_width;
    for (std::vector<Work>* list : {&work_, &tall_})
      std::erase_if(*list, [&](const Work& work) {
        const Input& input = inputs_[work.input];
        const TensorPlan& tensor = tensors(input.step)[work.tensors[0]];
        if (!is_rounded_on_device(plan_, tensor, backend_)) return false;
        by_width[input.columns].push_back(work);
        return true;
      });
    for (const auto& [columns, all] : by_width) {
      std::vector<RoundRequest> requests;
      for (const Work& work : all) {
        const Input& input = inputs_[work.input];
        requests.push_back(grid_request(tensors(input.step)[work.tensors[0]], input, nullptr));
      }
      TQ_ASSIGN(std::vector<Rounded> rounded, round_on_device(requests, backend_, context_));
      for (size_t i = 0; i < all.size(); ++i) matrices_[inputs_[all[i].input].step][all[i].tensors[0]][0] = std::move(rounded[i]);
    }
    return {};
  }

  void round_matrices(const Work& work, const Input& input, ThreadPool* threads) {
    for (const size_t i : work.tensors) {
      const TensorPlan& tensor = tensors(input.step)[i];
      const int64_t expert = std::max<int64_t>(0, input.expert);
      Rounded& matrix = matrices_[input.step][i][static_cast<size_t>(expert)];
      matrix = tensor.method == Method::kTurboquant ? round_to_grid(grid_request(tensor, input, threads))
               : tensor.method == Method::kQuip     ? to_e8p(tensor, input, threads)
                                                    : to_scalar(tensor, input, threads);
      if (input.expert < 0) continue;
      Loss& loss = matrix.loss;
      loss.error *= input.tokens, loss.energy *= input.tokens;
      loss.measured_error *= input.tokens, loss.activation_error *= input.tokens;
    }
  }

  // The rows of the input's expert, or of the whole tensor.
  RowSource rows_of(const TensorPlan& tensor, const Input& input) const {
    const PackedTensor& stored = *model_.find(tensor.linear.name + ".weight");
    const int64_t start = std::max<int64_t>(0, input.expert) * tensor.linear.out;
    return [&stored, start](int64_t first, int64_t count, float* out) { decode_rows(stored, start + first, count, out); };
  }

  RoundRequest grid_request(const TensorPlan& tensor, const Input& input, ThreadPool* threads) const {
    const auto& known = steps_[input.step].stored;
    const auto stored = known.find(tensor.linear.name);
    const size_t ranges = tensor.rates.size() / static_cast<size_t>(std::max<int64_t>(1, tensor.linear.experts));
    return {.weight = rows_of(tensor, input),
            .source = input.expert < 0 ? model_.find(tensor.linear.name + ".weight") : nullptr,
            .stored = stored == known.end() ? nullptr : stored->second,
            .rows = tensor.linear.out,
            .columns = input.columns,
            .sign = input.sign->data(),
            .objective = &input.objective,
            .order = input.order.empty() ? nullptr : &input.order,
            .activation_error = input.activation_error,
            .rates = std::span(tensor.rates).subspan(static_cast<size_t>(std::max<int64_t>(0, input.expert)) * ranges, ranges),
            .taps = &plan_.taps,
            .passes = plan_.options.passes,
            .isa = backend_.isa(),
            .threads = threads};
  }

  Rounded to_e8p(const TensorPlan& tensor, const Input& input, ThreadPool* threads) const {
    const std::string name = fmt::format("{} {} rows", tensor.linear.name, std::max<int64_t>(0, input.expert));
    return round_to_e8p({.weight = rows_of(tensor, input),
                         .rows = tensor.linear.out,
                         .columns = input.columns,
                         .bits = tensor.bits(),
                         .sign = input.sign->data(),
                         .row_sign = sign_of(name, tensor.linear.out, plan_.options.seed),
                         .has_row_scale = tensor.has_row_scale,
                         .objective = &input.objective,
                         .threads = threads});
  }

  Rounded to_scalar(const TensorPlan& tensor, const Input& input, ThreadPool* threads) const {
    int64_t first_row = 0;
    const std::span<const float> divisor = divisors(input.step, tensor.linear.name, &first_row);
    const RowSource stored = rows_of(tensor, input);
    const auto scaled = [&](int64_t first, int64_t count, float* out) {
      stored(first, count, out);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = first + i - first_row;
        const float d = at >= 0 && at < static_cast<int64_t>(divisor.size()) ? divisor[static_cast<size_t>(at)] : 1.0f;
        for (int64_t k = 0; k < input.columns; ++k)
          out[i * input.columns + k] *= (input.scale.empty() ? 1.0f : input.scale[static_cast<size_t>(k)]) / d;
      }
    };
    const Role role = tensor.linear.role;
    const bool is_clipped = role != Role::kQuery && role != Role::kKey && role != Role::kFusedQkv;  // as the paper's program does
    return round_to_scalar({.weight = tensor.method == Method::kAwq ? RowSource(scaled) : stored,
                            .rows = tensor.linear.out,
                            .columns = input.columns,
                            .group = tensor.group,
                            .bits = tensor.bits(),
                            .objective = &input.objective,
                            .order = input.order.empty() ? nullptr : &input.order,
                            .searches_clip = tensor.method == Method::kAwq && is_clipped,
                            .threads = threads});
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
  std::vector<Input> inputs_;
  std::vector<Work> work_, tall_;
  std::map<std::string, SecondMoment> shared_;  // of all experts, by tap point
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
