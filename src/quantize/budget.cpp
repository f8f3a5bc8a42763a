#include "quantize/budget.h"

#include <algorithm>
#include <functional>
#include <map>

#include "graph/kv_cache.h"
#include "model/family.h"
#include "model/wrapper.h"
#include "quantize/job.h"

namespace tq {
namespace {

constexpr double kLowest = 2.0, kHighest = 8.0;
constexpr int64_t kPromptChunk = 512;  // tokens of a prompt that are computed at once

// How large a plan's result is.
using SizeOf = std::function<uint64_t(const QuantizePlan&)>;

Result<uint64_t> size_at(const Model& model, QuantizeOptions options, double bits, const SizeOf& size) {
  options.bits = bits;
  TQ_ASSIGN(const QuantizePlan plan, make_plan(model, options));
  return size(plan);
}

// The most bits whose size is at most `bytes`. what: of the size, for people.
Result<double> most_bits(const Model& model, const QuantizeOptions& options, uint64_t bytes, const SizeOf& size, const std::string& what) {
  TQ_ASSIGN(const uint64_t smallest, size_at(model, options, kLowest, size));
  if (smallest > bytes)
    return bad_usage(
        "{} bytes are too few: {} takes {} at {} bits, the fewest there are{}; allow more, or fewer bits for embedding and head", bytes,
        model.source, smallest, kLowest, what);
  TQ_ASSIGN(const uint64_t largest, size_at(model, options, kHighest, size));
  double low = kLowest, high = kHighest;
  if (largest <= bytes) low = high;
  for (int i = 0; i < 40 && low < high; ++i) {
    const double middle = 0.5 * (low + high);
    TQ_ASSIGN(const uint64_t at, size_at(model, options, middle, size));
    (at <= bytes ? low : high) = middle;
  }
  return low;
}

// Floats that one layer keeps of a chunk of tokens.
int64_t working_floats(const ModelSpec& spec) {
  int64_t widest = 0;
  for (const auto& layer : spec.layers)
    for (const Block& block : layer) {
      int64_t sum = 3 * spec.hidden;
      for (const Linear* linear : linears(block)) sum += linear->out;
      widest = std::max(widest, sum);
    }
  return widest * kPromptChunk;
}

std::string running_text(const RunningMemory& running) {
  return fmt::format(", with keys and values of {} x {} tokens and what running takes", running.batch, running.context);
}

Shape shape_of(const Linear& linear) {
  return linear.experts > 0 ? Shape{linear.experts, linear.out, linear.in} : Shape{linear.out, linear.in};
}

}  // namespace

Result<QuantizeOptions> fit_bits(const Model& model, QuantizeOptions options, uint64_t bytes) {
  TQ_ASSIGN(options.bits, most_bits(
                              model, options, bytes, [&](const QuantizePlan& plan) { return planned_bytes(model, plan); }, ""));
  options.byte_limit = bytes;
  return options;
}

Result<QuantizeOptions> fit_card(const Model& model, QuantizeOptions options, const RunningMemory& running) {
  const auto size = [&](const QuantizePlan& plan) { return footprint_of(model, &plan, running).all(); };
  TQ_ASSIGN(options.bits, most_bits(model, options, running.memory, size, running_text(running)));
  TQ_ASSIGN(const QuantizePlan plan, make_plan(model, options));
  options.byte_limit = planned_bytes(model, plan) + (running.memory - size(plan));
  return options;
}

CardFootprint footprint_of(const Model& model, const QuantizePlan* plan, const RunningMemory& running) {
  std::vector<CardMatrix> matrices = card_matrices(model);
  std::map<std::string, std::vector<int64_t>> planned;
  if (plan)
    for (const TensorPlan* tensor : plan->tensors())
      planned[tensor->linear.name] = tensor->method == Method::kTurboquant ? plane_rows(*tensor) : std::vector<int64_t>();
  std::map<std::string, size_t> count;
  for (CardMatrix& matrix : matrices) {
    const auto found = planned.find(matrix.name);
    if (found == planned.end()) continue;
    const size_t expert = count[matrix.name]++;
    matrix.plane_rows = expert < found->second.size() ? found->second[expert] : 0;
  }
  const Network::Size size{.rows = std::min(kPromptChunk, running.batch * running.context) + running.batch,
                           .head_rows = running.batch,
                           .capacity = running.context};
  return card_footprint(model.spec, matrices, size,
                        kv_cache_bytes(model.spec, KvType::kF16, running.context) * static_cast<uint64_t>(running.batch));
}

uint64_t running_bytes(const ModelSpec& spec, const RunningMemory& running) {
  const uint64_t cache = kv_cache_bytes(spec, KvType::kF16, running.context) * static_cast<uint64_t>(running.batch);
  return cache + 4 * static_cast<uint64_t>(working_floats(spec) + running.batch * spec.vocabulary);
}

Result<QuantizeOptions> fit_memory(const Model& model, QuantizeOptions options, const RunningMemory& running) {
  const uint64_t beside = running_bytes(model.spec, running);
  TQ_ASSIGN(options.bits, most_bits(
                              model, options, running.memory, [&](const QuantizePlan& plan) { return planned_bytes(model, plan) + beside; },
                              running_text(running)));
  options.byte_limit = running.memory - beside;
  return options;
}

Result<Model> shapes_of(const Json& config, const std::string& source) {
  Model model;
  model.config = language_config(config);
  TQ_ASSIGN(model.spec, parse_config(model.config, source));
  model.source = source, model.format = "shapes";
  const auto add = [&](const std::string& name, Shape shape) {
    model.tensors[name] = plain_tensor({DType::kBF16, std::move(shape), nullptr}, nullptr);
  };
  for (const std::string& name : tensor_names(model.spec)) add(name, {model.spec.hidden});  // norms and biases; the rest follows
  add(model.spec.embedding + ".weight", {model.spec.vocabulary, model.spec.hidden});
  std::vector<const Linear*> all = linears(model.spec);
  all.push_back(&model.spec.head);
  for (const Linear* linear : all) {
    add(linear->name + ".weight", shape_of(*linear));
    if (linear->bias) add(linear->name + ".bias", {linear->out});
  }
  for (const auto& layer : model.spec.layers)
    for (const Block& block : layer)
      if (const auto* attention = std::get_if<Attention>(&block.op))
        for (const auto& norm : {attention->query_norm, attention->key_norm})
          if (norm) add(norm->name + ".weight", {norm->width});
  return model;
}

}  // namespace tq
