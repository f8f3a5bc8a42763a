#include "quantize/budget.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "graph/kv_cache.h"
#include "model/family.h"
#include "model/wrapper.h"
#include "quantize/allocation_plan.h"
#include "quantize/job.h"

namespace tq {
namespace {

constexpr double kLowest = 2.0;
constexpr uint64_t kHeaderEntry = 256;  // bytes of an array's entry in a header, at most

// How large a plan's result is.
using SizeOf = std::function<uint64_t(const QuantizePlan&)>;

class Fitting {
 public:
  // what: of the size, for people.
  Fitting(const Model& model, const QuantizeOptions& options, SizeOf size, const Completion& complete, std::string what)
      : model_(model), options_(options), size_(std::move(size)), complete_(complete), what_(std::move(what)) {}

  Result<QuantizePlan> plan_at(double bits) const {
    QuantizeOptions options = options_;
    options.bits = bits;
    if (complete_) {
      TQ_ASSIGN(options, complete_(std::move(options)));
    }
    return make_plan(model_, options);
  }

  // The most bits whose size is at most `bytes`.
  Result<double> run(uint64_t bytes) const {
    TQ_ASSIGN(const uint64_t smallest, size_at(kLowest));
    if (smallest > bytes)
      return bad_usage(
          "{} bytes are too few: {} takes {} at {} bits, the fewest there are{}; allow more, or fewer bits for embedding and head", bytes,
          model_.source, smallest, kLowest, what_);
    return has_whole_bits(options_.method) ? whole_bits(bytes) : any_bits(bytes);
  }

 private:
  Result<uint64_t> size_at(double bits) const {
    TQ_ASSIGN(const QuantizePlan plan, plan_at(bits));
    return size_(plan);
  }

  Result<double> whole_bits(uint64_t bytes) const {
    for (double bits = highest_bits(options_.method); bits > kLowest; --bits) {
      TQ_ASSIGN(const uint64_t size, size_at(bits));
      if (size <= bytes) return bits;
    }
    return kLowest;
  }

  Result<double> any_bits(uint64_t bytes) const {
    double low = kLowest, high = highest_bits(options_.method);
    TQ_ASSIGN(const uint64_t largest, size_at(high));
    if (largest <= bytes) return high;
    for (int i = 0; i < 40; ++i) {
      const double middle = 0.5 * (low + high);
      TQ_ASSIGN(const uint64_t at, size_at(middle));
      (at <= bytes ? low : high) = middle;
    }
    return low;
  }

  const Model& model_;
  const QuantizeOptions& options_;
  const SizeOf size_;
  const Completion& complete_;
  const std::string what_;
};

// Of an engine's steps, at most.
Network::Size engine_size(const RunningMemory& running, int64_t prompt_chunk) {
  return {.rows = std::min(prompt_chunk, running.batch * running.context) + running.batch,
          .head_rows = running.batch,
          .capacity = running.context};
}

// What the processor's operations have beside their arguments: inputs of a product turned and packed, and keys and values packed.
uint64_t operation_bytes(const ModelSpec& spec, const RunningMemory& running) {
  constexpr int64_t kPacked = int64_t{64} << 20;   // of keys and values, but at least one head's
  constexpr int64_t kThreads = int64_t{16} << 20;  // rows and sums
  int64_t widest = 0, head = 0;
  for (const auto& layer : spec.layers) {
    head = std::max(head, 2 * attention_of(layer).head_dim);
    for (const Block& block : layer)
      for (const Linear* linear : linears(block)) widest = std::max(widest, linear->in);
  }
  const int64_t inputs = 2 * engine_size(running, kHostPromptChunk).rows * widest;
  return 4 * static_cast<uint64_t>(inputs) + static_cast<uint64_t>(std::max(kPacked, 4 * head * running.context) + kThreads);
}

std::string running_text(const RunningMemory& running) {
  return fmt::format(", with keys and values of {} x {} tokens and what running takes", running.batch, running.context);
}

double padded_columns(const Linear& linear) {
  return static_cast<double>((linear.in + grid::kLineColumns - 1) / grid::kLineColumns * grid::kLineColumns);
}

// The bits of all linears of the layers, padding included.
uint64_t codes_of(const QuantizePlan& plan) {
  uint64_t bytes = 0;
  for (const auto& layer : plan.layers)
    for (const TensorPlan& tensor : layer) bytes += static_cast<uint64_t>(element_count(arrays_of(tensor)[0].shape));
  return bytes;
}

// The same for any rates of the same mean: every matrix may need as much padding as there can be.
uint64_t most_of_codes(const QuantizePlan& plan) {
  double weights = 0, padding = 0, widening = 1;  // widening: by the padding of columns, at most
  for (const auto& layer : plan.layers)
    for (const TensorPlan& tensor : layer) {
      const Linear& linear = tensor.linear;
      const auto matrices = static_cast<double>(std::max<int64_t>(1, linear.experts));
      const int64_t plane_rows = linear.out % grid::kRateRows == 0 ? grid::kLineRows - grid::kRateRows : grid::kLineRows - 1;
      weights += weights_of(linear);
      padding += matrices * static_cast<double>(plane_rows) * padded_columns(linear);
      widening = std::max(widening, padded_columns(linear) / static_cast<double>(linear.in));
    }
  return static_cast<uint64_t>(std::ceil((widening * plan.options.bits * weights + padding) / 8));
}

// Tables of taps of rates that the plan does not have yet.
uint64_t most_of_tables(const ModelSpec& spec, const QuantizePlan& plan) {
  uint64_t bytes = 0;
  for (const int rate : allocation_plan(spec, plan.options, 1).rates)
    bytes += plan.taps[static_cast<size_t>(rate)].size() * sizeof(float) + kHeaderEntry;
  return bytes;
}

// By how much headers may grow: of each array the length and both offsets may have a digit more. Weights that need another file, of
// `more` bytes, are listed in an index once more.
uint64_t most_of_headers(const Model& model, const QuantizePlan& plan, uint64_t planned, uint64_t more) {
  constexpr uint64_t kDigits = 3;
  const bool may_be_split = planned / plan.options.shard_bytes != (planned + more) / plan.options.shard_bytes;
  uint64_t bytes = kHeaderEntry;
  for (const PendingArray& array : artifact_arrays(model, plan, [](const std::string&) { return nullptr; }))
    bytes += may_be_split ? array.info.name.size() + kHeaderEntry : kDigits;
  return bytes;
}

}  // namespace

Result<QuantizeOptions> fit_bits(const Model& model, QuantizeOptions options, uint64_t bytes, const Completion& complete) {
  const auto size = [&](const QuantizePlan& plan) { return planned_bytes(model, plan); };
  TQ_ASSIGN(options.bits, Fitting(model, options, size, complete, "").run(bytes));
  options.byte_limit = bytes;
  return options;
}

Result<QuantizeOptions> fit_card(const Model& model, QuantizeOptions options, const RunningMemory& running, const Completion& complete) {
  const auto size = [&](const QuantizePlan& plan) { return footprint_of(model, &plan, running).all(); };
  const Fitting fitting(model, options, size, complete, running_text(running));
  TQ_ASSIGN(const double bits, fitting.run(running.memory));
  TQ_ASSIGN(const QuantizePlan plan, fitting.plan_at(bits));
  options.bits = bits;
  options.byte_limit = planned_bytes(model, plan) + (running.memory - size(plan));
  options.card = running;
  return options;
}

uint64_t excess_bytes(const Model& model, const QuantizePlan& plan) {
  const auto beyond = [](uint64_t taken, uint64_t limit) { return taken > limit ? taken - limit : 0; };
  const QuantizeOptions& options = plan.options;
  const uint64_t of_files = options.byte_limit > 0 ? beyond(planned_bytes(model, plan), options.byte_limit) : 0;
  return std::max(of_files, options.card ? beyond(footprint_of(model, &plan, *options.card).all(), options.card->memory) : 0);
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
    matrix.element_bytes = 2;  // off the grid: scalar codes and E8P are halves on a card
  }
  return card_footprint(model.spec, matrices, engine_size(running, kDevicePromptChunk),
                        kv_cache_bytes(model.spec, KvType::kF16, running.context) * static_cast<uint64_t>(running.batch));
}

uint64_t engine_bytes(const ModelSpec& spec, const RunningMemory& running) {
  const uint64_t cache = kv_cache_bytes(spec, KvType::kF16, running.context) * static_cast<uint64_t>(running.batch);
  const Network::Size size = engine_size(running, kHostPromptChunk);
  int64_t floats = size.rows * spec.hidden + size.head_rows * spec.vocabulary;
  for (const int64_t slot : forward_floats(spec, size.rows, size.head_rows)) floats += slot;
  const int64_t pages = (running.context + kPageTokens - 1) / kPageTokens;
  floats += running.batch * (spec.hidden + 1 + pages);  // what logits are wanted of, and where its pages are
  return cache + 4 * static_cast<uint64_t>(floats);
}

uint64_t running_bytes(const ModelSpec& spec, const RunningMemory& running) {
  return engine_bytes(spec, running) + operation_bytes(spec, running);
}

Result<QuantizeOptions> fit_memory(const Model& model, QuantizeOptions options, const RunningMemory& running, const Completion& complete) {
  const uint64_t beside = running_bytes(model.spec, running);
  const auto size = [&](const QuantizePlan& plan) { return planned_bytes(model, plan) + beside; };
  TQ_ASSIGN(options.bits, Fitting(model, options, size, complete, running_text(running)).run(running.memory));
  options.byte_limit = running.memory - beside;
  return options;
}

uint64_t most_bytes(const Model& model, const QuantizePlan& plan) {
  const uint64_t planned = planned_bytes(model, plan);
  if (!uses_allocation(plan.options)) return planned;
  const uint64_t more = most_of_codes(plan) - codes_of(plan) + most_of_tables(model.spec, plan);
  const uint64_t most = planned + more + most_of_headers(model, plan, planned, more);
  return plan.options.byte_limit > 0 ? std::min(most, plan.options.byte_limit) : most;
}

Result<Model> shapes_of(const Json& config, const std::string& source) {
  Model model;
  model.config = language_config(config);
  TQ_ASSIGN(model.spec, parse_config(model.config, source));
  model.source = source, model.format = "shapes";
  for (WantedTensor& wanted : wanted_tensors(model.spec))
    model.tensors[wanted.name] = plain_tensor({DType::kBF16, std::move(wanted.shape), nullptr}, nullptr);
  return model;
}

}  // namespace tq
