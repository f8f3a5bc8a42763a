#include "quantize/estimate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/rng.h"
#include "codec/grid/encoder.h"
#include "graph/kv_cache.h"
#include "quantize/allocation_plan.h"
#include "quantize/calibrate_plan.h"
#include "quantize/float_backend.h"
#include "quantize/rates.h"
#include "quantize/stage_budgets.h"
#include "quantize/statistics.h"
#include "quantize/tune.h"

namespace tq {
namespace {

constexpr double kLeastSeconds = 0.1;      // of a measurement
constexpr double kProductSeconds = 0.25;   // of that of products, which most of an estimate rests on
constexpr double kPassesInSequence = 3.7;  // of all tokens through a layer, where one is enough without
constexpr double kBesideProducts = 1.1;    // norms, gates, sums and copies of a layer, with its products
constexpr double kAttentionAndBack = 3.5;  // products of attention forward and back, where forward has two
constexpr double kStagedRounding = 1.7;    // few matrices at a time leave threads idle, and each stage has factors of its own

// Seconds of one call, the best of at least two and of as many as fit; the first warms up. Calls of a few milliseconds find a moment in
// which nothing else runs.
template <typename Work>
double seconds_of(const Work& work, double least = kLeastSeconds) {
  double best = 1e9, total = 0;
  work();
  for (int i = 0; i < 2 || total < least; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::min(best, seconds), total += seconds;
  }
  return best;
}

std::vector<float> noise(int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  Rng rng(1);
  for (float& each : out) each = static_cast<float>(rng.uniform() - 0.5);
  return out;
}

// Seconds of one processor of a Zen 3 for a matrix of a rival's, which rounds on processors: a part for the codes, and for each column the
// products of feedback, losses and AWQ's searches.
double rival_seconds(const TensorPlan& tensor) {
  struct Cost {
    double weight, column;
  };
  constexpr Cost kRtn{1e-7, 1e-10}, kGptq{1e-7, 1.5e-10}, kAwq{1e-7, 1e-9}, kQuip{1.5e-7, 1.5e-10};
  const Cost cost = tensor.method == Method::kRtn    ? kRtn
                    : tensor.method == Method::kGptq ? kGptq
                    : tensor.method == Method::kAwq  ? kAwq
                                                     : kQuip;
  const double stages = tensor.method == Method::kQuip ? tensor.bits() - 1 : 1;
  return weights_of(tensor.linear) * (stages * cost.weight + cost.column * static_cast<double>(tensor.linear.in));
}

// Speeds of all threads together.
struct Speeds {
  double product = 0;                               // multiply-adds a second of large matrix products
  double layer = 0;                                 // the same of the model's own layers, as training has them, with what is beside them
  double rotation = 0;                              // inputs rotated and rounded a second
  double decode = 0;                                // weights of the source decoded a second
  std::array<double, grid::kMaxRate + 1> encode{};  // branches a second, by rate
  double threads = 1;
};

double product_speed(ThreadPool& threads, Isa isa) {
  constexpr int64_t kColumns = 1152, kTokens = 256;
  const std::vector<float> input = noise(kTokens * kColumns);
  SecondMoment moment(kColumns);
  FloatProducts products(threads, isa);
  const double seconds = seconds_of([&] { moment.add(input.data(), kTokens, products); }, kProductSeconds);
  return 0.5 * static_cast<double>(kColumns * kColumns * kTokens) / seconds;
}

// The products of a layer with some tokens, by the backend of training: narrow matrices take longer than their multiply-adds say.
double layer_speed(const QuantizePlan& plan, Backend& backend, ThreadPool& threads) {
  constexpr int64_t kTokens = 512, kWidest = 2048;
  FloatBackend by_blas(backend, threads);
  const std::vector<float> input = noise(kTokens * kWidest);
  std::vector<float> output(input.size());
  std::vector<std::unique_ptr<Matrix>> matrices;
  double weights = 0;
  for (const TensorPlan& tensor : plan.layers.at(0)) {
    const int64_t rows = std::min(tensor.linear.out, kWidest), columns = std::min(tensor.linear.in, kWidest);
    auto values = std::make_shared<std::vector<float>>(noise(rows * columns));
    auto matrix =
        by_blas.prepare(plain_tensor({DType::kF32, {rows, columns}, reinterpret_cast<const std::byte*>(values->data())}, values), 0);
    if (!matrix) continue;
    weights += static_cast<double>(rows * columns);
    matrices.push_back(std::move(*matrix));
  }
  const double seconds = seconds_of(
      [&] {
        for (const auto& matrix : matrices) {
          const LinearJob job{.matrix = matrix.get(), .bias = nullptr, .output = output.data()};
          by_blas.linear({.input = input.data(), .tokens = kTokens, .jobs = {&job, 1}, .precision = Precision::kTraining});
        }
      },
      kProductSeconds);
  return weights * static_cast<double>(kTokens) / (kBesideProducts * seconds);
}

double rotation_speed(ThreadPool& threads) {
  constexpr int64_t kColumns = 1024, kTokens = 512;
  const std::vector<float> input = noise(kTokens * kColumns);
  ActivationError error(std::vector<uint8_t>(kColumns / 8), kColumns);
  return static_cast<double>(kTokens * kColumns) / seconds_of([&] { error.add(input.data(), kTokens, threads); });
}

double decode_speed(const Model& model, const QuantizePlan& plan, ThreadPool& threads) {
  PackedTensor tensor = *model.find(plan.layers.at(0).at(0).linear.name + ".weight");
  const int64_t rows = std::min<int64_t>(64, tensor.rows());
  if (!tensor.parts[0].view.data) {  // shapes alone: as the same type would be
    const int64_t columns = tensor.columns();
    auto zeros = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(rows * columns) * dtype_size(tensor.parts[0].view.dtype));
    tensor = plain_tensor({tensor.parts[0].view.dtype, {rows, columns}, zeros->data()}, zeros);
  }
  std::vector<float> out(static_cast<size_t>(rows * tensor.columns()));
  const double seconds = seconds_of([&] { decode_rows(tensor, 0, rows, out.data()); });
  return static_cast<double>(rows * tensor.columns() * threads.size()) / seconds;
}

double encode_speed(int rate, const grid::TapsByRate& taps, ThreadPool& threads) {
  constexpr int64_t kRows = 512;
  const std::vector<uint8_t> rates(kRows / grid::kRateRows, static_cast<uint8_t>(rate));
  const grid::Layout layout(kRows, 4, rates);
  const std::vector<float> target = noise(kRows), weight(kRows, 1.0f);
  std::vector<grid::ColumnEncoder> encoders;
  for (int i = 0; i < threads.size(); ++i) encoders.emplace_back(layout, taps);
  const double seconds = seconds_of([&] {
    threads.run(threads.size(), 1, [&](int64_t begin, int64_t, int) {
      std::vector<uint8_t> bits(static_cast<size_t>(layout.plane_rows));
      std::vector<float> value(kRows);
      encoders[static_cast<size_t>(begin)].encode(target.data(), weight.data(), bits.data(), value.data());
    });
  });
  return encoders[0].branches() * threads.size() / seconds;
}

// Seconds that the attention of one layer takes for one sequence.
Result<double> attention_seconds(const ModelSpec& spec, int64_t tokens, Backend& backend) {
  const Attention& op = attention_of(spec.layers.at(0));
  const int64_t width = op.heads * op.head_dim, key = op.kv_heads * op.head_dim;
  TQ_ASSIGN(const KvCache cache, KvCache::create(backend, spec, KvType::kF32, tokens, 0, 1));
  const std::vector<float> query = noise(tokens * width), keys = noise(tokens * key);
  std::vector<float> output(query.size());
  const Stretch whole{.tokens = tokens};
  backend.kv_store({.key = keys.data(), .value = keys.data(), .stretches = {&whole, 1}, .stride = key, .kv = cache.layer(0)});
  return seconds_of([&] {
    backend.attend({.query = query.data(),
                    .output = output.data(),
                    .stretches = {&whole, 1},
                    .heads = op.heads,
                    .stride = width,
                    .kv = cache.layer(0),
                    .window = op.window,
                    .scale = op.score_scale});
  });
}

Speeds measure(const Model& model, const QuantizePlan& plan, Backend& backend, const Context& context) {
  Speeds speeds;
  speeds.threads = context.threads.size();
  speeds.product = product_speed(context.threads, backend.isa());
  speeds.layer = layer_speed(plan, backend, context.threads);
  speeds.rotation = rotation_speed(context.threads);
  speeds.decode = decode_speed(model, plan, context.threads);
  for (const TensorPlan* tensor : plan.tensors())
    for (const uint8_t rate : tensor->rates)
      if (speeds.encode[rate] == 0) speeds.encode[rate] = encode_speed(rate, plan.taps, context.threads);
  return speeds;
}

// Forward products, second moments (once a tap point), rotations.
double statistics_seconds(const QuantizePlan& plan, const std::vector<TensorPlan>& tensors, double tokens, const Speeds& speeds) {
  double seconds = 0;
  std::map<std::string, double> taps;
  for (const TensorPlan& tensor : tensors) {
    const double share = tensor.linear.experts > 0 ? 2.0 / static_cast<double>(tensor.linear.experts) : 1.0;  // tokens that reach it
    taps[tensor.linear.tap] = static_cast<double>(tensor.linear.in);
    if (&tensors == &plan.tables) continue;  // measured, not multiplied
    seconds += tokens * share * weights_of(tensor.linear) / speeds.layer + weights_of(tensor.linear) / speeds.decode;
  }
  for (const auto& [name, columns] : taps) seconds += tokens * (0.5 * columns * columns / speeds.product + columns / speeds.rotation);
  return seconds;
}

double rounding_seconds(const QuantizePlan& plan, const std::vector<TensorPlan>& tensors, const Speeds& speeds) {
  constexpr double kSeamRows = 96;
  double seconds = 0;
  for (const TensorPlan& tensor : tensors) {
    if (tensor.method != Method::kTurboquant) {
      seconds += rival_seconds(tensor) / speeds.threads;
      continue;
    }
    const double columns = static_cast<double>(tensor.linear.in), all = weights_of(tensor.linear), rows = all / columns;
    double encoding = 0;
    for (const uint8_t rate : tensor.rates)
      encoding += std::exp2(static_cast<double>(plan.taps[rate].size())) / speeds.encode[rate] / static_cast<double>(tensor.rates.size());
    const double passes = 1.0 + plan.options.passes;
    seconds += passes * encoding * columns * (rows + kSeamRows * std::max<double>(1, static_cast<double>(tensor.linear.experts)));
    // Feedback, a product with the Hessian, and the Hessian's own factor.
    seconds += ((1.5 + 2.0 * plan.options.passes) * all * columns + columns * columns * columns / 6) / speeds.product + all / speeds.decode;
  }
  return seconds;
}

// Beyond what a plan without it takes: more passes, all statistics and roundings but the first stage's twice, the steps. attention: seconds
// of a pass over all tokens; rounding: of all layers once.
double calibration_seconds(const Model& model, const QuantizePlan& plan, double rounding, double attention, const Speeds& speeds) {
  const double tokens = static_cast<double>(calibration_tokens(plan.options));
  const double pass = tokens * static_cast<double>(count_weights(model.spec).linears);  // one is in the plain statistics
  const CalibrationOperations operations = stage_operations(model.spec, plan.options).of_calibration;
  double moments = 0;
  for (const auto& layer : plan.layers) {
    std::map<std::string, double> taps;
    for (const TensorPlan& tensor : layer) taps[tensor.linear.tap] = static_cast<double>(tensor.linear.in);
    for (const auto& [name, columns] : taps) moments += tokens * (0.5 * columns * columns / speeds.product + columns / speeds.rotation);
  }
  // Of a step's operations two fifths are the way forward.
  const double attentions = (operations.passes / pass - 1) + kAttentionAndBack * operations.steps / (2.5 * pass);
  return std::max(0.0, operations.all() - pass) / speeds.layer + attention * attentions + moments + (2 * kStagedRounding - 1) * rounding;
}

// Every linear at each candidate rate with short windows, after a pass for their statistics; then what they cost, and the guard. attention:
// seconds of a pass over all tokens; of shorter sequences it takes less a token.
double allocation_seconds(const Model& model, const QuantizePlan& plan, const TimeEstimate& plain, double attention, const Speeds& speeds,
                          ThreadPool& threads) {
  const double tokens = static_cast<double>(calibration_tokens(plan.options));
  QuantizePlan candidates = plan;
  candidates.options.passes = 0, candidates.taps = taps_of(Effort::kFast);
  Speeds short_speeds = speeds;
  double rounding = 0;
  const auto length = static_cast<double>(std::min(plan.options.sequence, model.spec.context));
  const AllocationPlan own = allocation_plan(model.spec, plan.options, static_cast<size_t>(tokens / length));
  for (const int rate : own.rates) {
    short_speeds.encode[static_cast<size_t>(rate)] = encode_speed(rate, candidates.taps, threads);
    for (const auto& layer : plan.layers) {
      std::vector<TensorPlan> tensors = layer;
      for (TensorPlan& tensor : tensors) tensor.rates = constant_rates(tensor.linear, rate);
      rounding += rounding_seconds(candidates, tensors, short_speeds);
    }
  }
  const double operations = stage_operations(model.spec, plan.options).allocation;
  const double pass = tokens * static_cast<double>(count_weights(model.spec).linears);
  if (own.length > 0) attention *= static_cast<double>(own.length) / length;
  const double measured = static_cast<double>(own.candidates) * length / tokens;
  return measured * plain.statistics + rounding + operations / speeds.layer + attention * operations / pass;
}

// attention: seconds a token.
double tuning_seconds(const ModelSpec& spec, const QuantizeOptions& options, const Speeds& speeds, double attention, bool is_host) {
  if (!uses_tuning(options)) return 0;
  const TuneSettings settings = tune_settings(options, spec.context);
  const double head = static_cast<double>(spec.head.in) * static_cast<double>(spec.head.out);
  const double linears = static_cast<double>(count_weights(spec).linears);
  const double operations = stage_operations(spec, options).tuning;
  const auto decodings = static_cast<double>((stays_decoded(spec, is_host) ? 0 : 2 * settings.steps) + 2 * settings.measures);
  return operations / speeds.layer + operations / (linears + head) * attention + decodings * linears / speeds.decode;
}

// Seconds. A layer's linears of one width are rounded together, at all rates, a column after another: 25 s of the 0.5B, 84 s of 8B and 18 s
// of two layers of 70B at four rates (138 k, 590 k and 74 k columns of 10 k, 47 k and 92 k rows on the mean).
double candidates_on_card(const QuantizePlan& plan, size_t rates) {
  constexpr double kColumn = 110e-6, kRow = 1.3e-9;
  double seconds = 0;
  for (const auto& layer : plan.layers) {
    std::map<int64_t, double> rows;  // by width
    for (const TensorPlan& tensor : layer)
      rows[tensor.linear.in] += static_cast<double>(std::max<int64_t>(1, tensor.linear.experts) * tensor.linear.out);
    for (const auto& [columns, own] : rows) seconds += static_cast<double>(columns) * (kColumn + kRow * own * static_cast<double>(rates));
  }
  return seconds;
}

}  // namespace

TimeEstimate estimate_time(const Model& model, const QuantizePlan& plan, Backend& backend, const Context& context) {
  const Speeds speeds = measure(model, plan, backend, context);
  const int64_t sequence = std::min(plan.options.sequence, model.spec.context);
  const double tokens = static_cast<double>(calibration_tokens(plan.options));
  TimeEstimate out;
  for (const auto& layer : plan.layers) {
    out.statistics += statistics_seconds(plan, layer, tokens, speeds);
    out.rounding += rounding_seconds(plan, layer, speeds);
  }
  const double of_layers = out.rounding;
  out.statistics += statistics_seconds(plan, plan.tables, tokens, speeds);
  out.rounding += rounding_seconds(plan, plan.tables, speeds);
  double attention = 0;
  if (const auto measured = attention_seconds(model.spec, sequence, backend))
    attention = *measured * tokens / static_cast<double>(sequence) * static_cast<double>(plan.layers.size());
  out.statistics += attention;
  if (rounds_in_sequence(plan.options) && !uses_calibration(plan.options)) out.statistics *= kPassesInSequence;
  if (uses_allocation(plan.options)) out.allocation = allocation_seconds(model, plan, out, attention, speeds, context.threads);
  if (uses_calibration(plan.options)) out.calibration = calibration_seconds(model, plan, of_layers, attention, speeds);
  if (uses_gradients(plan.options)) {
    const double operations = stage_operations(model.spec, plan.options).gradients;
    const double head = static_cast<double>(model.spec.head.in) * static_cast<double>(model.spec.head.out);
    const double weights = static_cast<double>(count_weights(model.spec).linears) + head;
    constexpr double kAttention = 1.3;  // of a gradient, beside products: five of them where a pass has two
    out.gradients = operations / speeds.layer + kAttention * operations / weights * attention / tokens;
  }
  out.tuning = tuning_seconds(model.spec, plan.options, speeds, attention / tokens, backend.is_host());
  return out;
}

TimeEstimate card_time(const Model& model, const QuantizePlan& plan) {
  // Multiply-adds a second of each stage: 47 T of statistics in 3.2 s, 3229 T in 270 s with rounding and statistics, 674 T in 50 s; costs,
  // in two rounds, 206 T in 37 s. Branches a second: 2^15 for each of 358 M weights in 18 s.
  constexpr double kStatistics = 1.5e13, kCalibration = 12e12, kTuning = 13.5e12, kAllocation = 5.5e12, kBranches = 6.5e11;
  constexpr double kProcessors = 6;
  const StageOperations operations = stage_operations(model.spec, plan.options);
  TimeEstimate out{.gradients = operations.gradients / kTuning,
                   .calibration = operations.calibration / kCalibration,
                   .tuning = operations.tuning / kTuning};
  const double tokens = static_cast<double>(calibration_tokens(plan.options));
  const auto add = [&](const TensorPlan& tensor) {
    out.statistics += tokens * weights_of(tensor.linear) / kStatistics;
    if (tensor.method != Method::kTurboquant) {
      out.rounding += rival_seconds(tensor) / kProcessors;
      return;
    }
    for (const uint8_t rate : tensor.rates)
      out.rounding += weights_of(tensor.linear) / static_cast<double>(tensor.rates.size()) *
                      std::exp2(static_cast<double>(plan.taps[rate].size())) / kBranches;
  };
  if (!uses_calibration(plan.options))
    for (const auto& layer : plan.layers)
      for (const TensorPlan& tensor : layer) add(tensor);
  for (const TensorPlan& tensor : plan.tables) add(tensor);
  if (rounds_in_sequence(plan.options) && !uses_calibration(plan.options)) out.statistics *= kPassesInSequence;
  if (uses_calibration(plan.options) && plan.options.method == Method::kQuip)
    for (const auto& layer : plan.layers)
      for (const TensorPlan& tensor : layer) out.calibration += 2 * rival_seconds(tensor) / kProcessors;  // tuned and plain
  if (uses_allocation(plan.options)) {
    const auto weights = static_cast<double>(count_weights(model.spec).linears);
    const auto length = static_cast<double>(std::min(plan.options.sequence, model.spec.context));
    const AllocationPlan own = allocation_plan(model.spec, plan.options, static_cast<size_t>(tokens / length));
    const double measured = static_cast<double>(own.candidates) * length;
    out.allocation = operations.allocation / kAllocation + measured * weights / kStatistics + candidates_on_card(plan, own.rates.size());
  }
  return out;
}

}  // namespace tq
