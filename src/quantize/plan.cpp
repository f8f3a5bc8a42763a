#include "quantize/plan.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "artifact/format.h"
#include "base/hash.h"
#include "base/rng.h"
#include "codec/e8p/e8p.h"
#include "codec/elements.h"
#include "codec/grid/layout.h"
#include "codec/scalar/scalar.h"
#include "graph/tunable.h"
#include "quantize/calibrate_plan.h"
#include "quantize/card.h"
#include "quantize/round_scalar.h"

namespace tq {
namespace {

using safetensors::TensorInfo;

bool is_rotated(Method method) { return method == Method::kTurboquant || method == Method::kQuip; }

// Where they come from (a flag, a file, a size) is not known here. of: what they are bits of; `least` of them at least.
Status check_bits(Method method, double bits, int least, std::string_view of) {
  if (!(bits >= least && bits <= 8.0)) return bad_usage("{} bits {}: give {} to 8", bits, of, least);
  if (has_whole_bits(method) && bits != std::floor(bits))
    return bad_usage("{} bits {}: {} takes whole bits", bits, of, method_name(method));
  if (bits > highest_bits(method)) return bad_usage("{} bits {}: {} has 2 to {}", bits, of, method_name(method), highest_bits(method));
  return {};
}

Status check_options(const QuantizeOptions& options) {
  TQ_TRY(check_bits(options.method, options.bits, 2, "a weight"));
  for (const int bits : {options.embedding_bits, options.head_bits})
    if (bits != 0 && (bits < 2 || bits > 8)) return bad_usage("{} bits for the embedding or head: give 2 to 8, or 'original'", bits);
  if (options.method != Method::kTurboquant && options.allocate.value_or(false))
    return bad_usage("--allocate on: --method {} has the same bits everywhere", method_name(options.method));
  if (options.method != Method::kTurboquant && options.rounding)
    return bad_usage("--rounding {}: --method {} does not search strings of bits by windows", effort_name(*options.rounding),
                     method_name(options.method));
  if (options.method != Method::kTurboquant && options.passes != 0)
    return bad_usage("--passes {}: --method {} rounds every column once", options.passes, method_name(options.method));
  for (const auto& [flag, value] : {std::pair("--calibrate", options.calibrate), std::pair("--tune", options.tune)})
    if (value.value_or(false) && !is_rotated(options.method))
      return bad_usage("{} on: there is none for --method {}; turboquant and quip have it", flag, method_name(options.method));
  if (options.group != 0 && (options.group < 16 || options.group > 128 || 128 % options.group != 0))
    return bad_usage("--group {}: give 16, 32, 64, 128, or 0 for whole rows", options.group);
  if (options.sequence < 16) return bad_usage("calibration sequences of {} tokens are too short", options.sequence);
  return {};
}

// Each group of the target's has one rate.
Status check_ties(Target target, const std::vector<const Linear*>& all, const std::vector<Rates>& rates) {
  if (target == Target::kNone) return {};
  for (const std::vector<size_t>& group : ties(all, target))
    for (const size_t i : group)
      for (const uint8_t rate : rates[i])
        if (rate != rates[group[0]][0])
          return bad_usage("--rates: {} needs one whole rate for {}{}{}", target_name(target), all[group[0]]->name,
                           i == group[0] ? "" : " and ", i == group[0] ? "" : all[i]->name);
  return {};
}

// Linears whose rates the user has chosen.
Status apply_rates(const QuantizeOptions& options, const std::vector<const Linear*>& all, std::vector<Rates>& rates) {
  std::set<std::string> names;
  for (size_t i = 0; i < all.size(); ++i) {
    names.insert(all[i]->name);
    const auto own = options.rates.find(all[i]->name);
    if (own == options.rates.end()) continue;
    const int least = options.method == Method::kTurboquant ? grid::kMinRate : 2;
    TQ_TRY(check_bits(options.method, own->second, least, "for " + own->first));
    rates[i] = uniform_rates({&all[i], 1}, own->second)[0];
  }
  for (const auto& [name, bits] : options.rates)
    if (!names.contains(name)) return bad_usage("--rates: the model has no linear {}", name);
  return check_ties(options.target, all, rates);
}

Linear embedding_linear(const ModelSpec& spec) {
  return Linear{.name = spec.embedding, .in = spec.hidden, .out = spec.vocabulary, .tap = spec.embedding, .role = Role::kHead};
}

std::set<int> used_rates(const QuantizePlan& plan) {
  std::set<int> used;
  for (const TensorPlan* tensor : plan.tensors())
    if (tensor->method == Method::kTurboquant) used.insert(tensor->rates.begin(), tensor->rates.end());
  return used;
}

bool is_plain(const PackedTensor& tensor) {
  return tensor.codec == CodecId::kPlain && tensor.parts.size() == 1 && tensor.offset == 0.0f && tensor.interleaved_head_dim == 0;
}

PendingArray converted(const std::string& name, const PackedTensor& tensor, DType dtype) {
  return {{name, dtype, tensor.shape}, [name, tensor, dtype](const auto& sink) {
            return write_elements({name, tensor, 0, tensor.rows(), dtype}, sink, nullptr);
          }};
}

// A tensor that stays as it was: plain ones byte for byte, GGUF's vectors as F32 and its matrices as F16.
PendingArray kept(const std::string& name, const PackedTensor& tensor) {
  if (is_plain(tensor)) return pending(name, tensor.parts[0].view, tensor.owner);
  return converted(name, tensor, tensor.shape.size() == 1 ? DType::kF32 : DType::kF16);
}

// One array per array name, in the order of first mention.
class Collector {
 public:
  explicit Collector(const ArrayLookup& made) : made_(made) {}
  void add_made(const TensorInfo& info) {
    if (!names_.insert(info.name).second) return;
    const PendingArray* array = made_(info.name);
    arrays_.push_back(array ? *array : PendingArray{info, nullptr});
  }
  void add_kept(const std::string& name, const PackedTensor& tensor) {
    if (names_.insert(name).second) arrays_.push_back(kept(name, tensor));
  }
  void add_tensor(const TensorPlan& tensor) {
    for (const TensorInfo& info : arrays_of(tensor)) add_made(info);
    if (tensor.method == Method::kQuip)
      for (const char* table : {"e8p.absolute", "e8p.residual"}) add_made({table, DType::kF32, {e8p::kEntries * e8p::kWidth}});
    if (is_rotated(tensor.method)) add_made({tensor.linear.tap + ".sign", DType::kU8, {(tensor.linear.in + 7) / 8}});
  }
  std::vector<PendingArray> take() { return std::move(arrays_); }

 private:
  const ArrayLookup& made_;
  std::set<std::string> names_;
  std::vector<PendingArray> arrays_;
};

TensorPlan tensor_plan(const Linear& linear, const Rates& rates, const QuantizeOptions& options) {
  TensorPlan plan{.linear = linear, .rates = rates, .method = options.method};
  plan.group = scalar::group_columns(linear.in, options.group);
  plan.has_order = options.method == Method::kGptq && uses_act_order(options);
  plan.has_row_scale = options.method == Method::kQuip && (uses_calibration(options) || uses_tuning(options));
  return plan;
}

// Into norm -> q, k, v; norm -> gate, up; up -> down; v -> o, where every head has its own v. Not into mixtures, whose experts share an
// input with the router.
std::vector<Fold> folds_of(const std::vector<Block>& layer) {
  std::vector<Fold> folds;
  for (const Block& block : layer) {
    if (const auto* op = std::get_if<Attention>(&block.op)) {
      folds.push_back({.tap = op->qkv[0].tap, .name = block.pre.name, .is_norm = true});
      const int64_t width = op->heads * op->head_dim;
      if (op->kv_heads == op->heads)
        folds.push_back({.tap = op->output.tap,
                         .name = op->qkv.back().name,
                         .first_row = op->qkv.size() == 1 ? 2 * width : 0,
                         .has_bias = op->qkv.back().bias});
    } else if (const auto* mlp = std::get_if<Mlp>(&block.op)) {
      folds.push_back({.tap = mlp->gate_up[0].tap, .name = block.pre.name, .is_norm = true});
      folds.push_back({.tap = mlp->down.tap,
                       .name = mlp->gate_up.back().name,
                       .first_row = mlp->gate_up.size() == 1 ? mlp->down.in : 0,
                       .has_bias = mlp->gate_up.back().bias});
    }
  }
  return folds;
}

std::vector<TensorInfo> scalar_arrays(const TensorPlan& tensor) {
  const Linear& linear = tensor.linear;
  const int64_t experts = std::max<int64_t>(1, linear.experts), scales = linear.out * (linear.in / tensor.group);
  std::vector<TensorInfo> out = {{linear.name + ".scalar", DType::kU16, {2 * experts}},
                                 {linear.name + ".codes", DType::kU8, {experts * linear.out * scalar::row_bytes(linear.in, tensor.bits())}},
                                 {linear.name + ".scale", DType::kF16, {experts * scales}},
                                 {linear.name + ".zero", DType::kU8, {experts * scalar::row_bytes(scales, tensor.bits())}}};
  if (tensor.has_order) out.push_back({linear.name + ".order", DType::kU16, {experts * linear.in}});
  return out;
}

std::vector<TensorInfo> e8p_arrays(const TensorPlan& tensor) {
  const Linear& linear = tensor.linear;
  const int64_t experts = std::max<int64_t>(1, linear.experts), vectors = experts * linear.out * (linear.in / e8p::kWidth);
  std::vector<TensorInfo> out = {{linear.name + ".vectors", DType::kU16, {vectors}},
                                 {linear.name + ".stage", DType::kF32, {2 * experts}},
                                 {linear.name + ".row_sign", DType::kU8, {experts * ((linear.out + 7) / 8)}}};
  if (tensor.has_row_scale) out.push_back({linear.name + ".row_scale", DType::kF16, {experts * linear.out}});
  if (tensor.bits() > 2) out.push_back({linear.name + ".residual", tensor.bits() == 3 ? DType::kU8 : DType::kU16, {vectors}});
  return out;
}

}  // namespace

std::string_view allocation_name(AllocationKind kind) {
  constexpr std::string_view kNames[] = {"uniform", "promotions", "moves", "ranges", "repriced", "given"};
  return kNames[static_cast<size_t>(kind)];
}

std::string_view allocation_text(AllocationKind kind) {
  constexpr std::string_view kTexts[] = {"uniform", "promotions only", "moves both ways", "moves of rows", "priced again", "given"};
  return kTexts[static_cast<size_t>(kind)];
}

std::vector<const TensorPlan*> QuantizePlan::tensors() const {
  std::vector<const TensorPlan*> out;
  for (const auto& layer : layers)
    for (const TensorPlan& tensor : layer) out.push_back(&tensor);
  for (const TensorPlan& tensor : tables) out.push_back(&tensor);
  return out;
}

Result<QuantizePlan> make_plan(const Model& model, const QuantizeOptions& options) {
  TQ_TRY(check_options(options));
  const ModelSpec& spec = model.spec;
  QuantizePlan plan;
  plan.options = options;
  plan.taps = taps_of(options);
  const std::vector<const Linear*> all = rated_linears(spec);  // routers stay as they are
  for (const Linear* linear : all)
    if (options.method == Method::kQuip && linear->in % e8p::kWidth != 0)
      return bad_input("{}: {} has {} columns; quip needs a multiple of 8", model.source, linear->name, linear->in);
  const bool is_tied = options.target != Target::kNone;
  std::vector<Rates> rates = is_tied ? tied_rates(all, options.bits, options.target) : uniform_rates(all, options.bits);
  TQ_TRY(apply_rates(options, all, rates));
  size_t next = 0;
  for (const auto& layer : spec.layers) {
    plan.layers.emplace_back();
    plan.folds.push_back(options.method == Method::kAwq ? folds_of(layer) : std::vector<Fold>());
    for (const Block& block : layer)
      for (const Linear* linear : linears(block))
        if (linear->role != Role::kRouter) plan.layers.back().push_back(tensor_plan(*linear, rates[next++], options));
  }
  if (options.head_bits > 0) plan.tables.push_back({spec.head, constant_rates(spec.head, options.head_bits)});
  if (!spec.tied && options.embedding_bits > 0) {
    const Linear embedding = embedding_linear(spec);
    plan.tables.push_back({embedding, constant_rates(embedding, options.embedding_bits)});
  }
  if (!options.rates.empty()) plan.allocation.chosen = AllocationKind::kGiven;
  TQ_TRY(check_scalar_sizes(plan));
  plan.texts = artifact_texts(model, plan);
  return plan;
}

std::vector<int64_t> plane_rows(const TensorPlan& tensor) {
  const int64_t rows = tensor.linear.out, ranges = (rows + grid::kRateRows - 1) / grid::kRateRows;
  std::vector<int64_t> sums(tensor.rates.size() / static_cast<size_t>(ranges));
  for (size_t i = 0; i < tensor.rates.size(); ++i) {
    const auto range = static_cast<int64_t>(i) % ranges;
    sums[i / static_cast<size_t>(ranges)] += tensor.rates[i] * std::min(grid::kRateRows, rows - range * grid::kRateRows);
  }
  return sums;
}

std::vector<TensorInfo> arrays_of(const TensorPlan& tensor) {
  if (tensor.method == Method::kQuip) return e8p_arrays(tensor);
  if (tensor.method != Method::kTurboquant) return scalar_arrays(tensor);
  const Linear& linear = tensor.linear;
  int64_t padded_rows = 0;
  for (const int64_t rows : plane_rows(tensor)) padded_rows += (rows + grid::kLineRows - 1) / grid::kLineRows * grid::kLineRows;
  const int64_t padded_columns = (linear.in + grid::kLineColumns - 1) / grid::kLineColumns * grid::kLineColumns;
  return {{linear.name + ".bits", DType::kU8, {padded_rows / 8 * padded_columns}},
          {linear.name + ".row_scale", DType::kF16, {std::max<int64_t>(1, linear.experts) * linear.out}},
          {linear.name + ".rates", DType::kU8, {static_cast<int64_t>(tensor.rates.size())}},
          {linear.name + ".activation_bits", DType::kU8, {1}}};
}

std::vector<TensorInfo> changed_arrays(const Model& model, const std::vector<Fold>& folds) {
  std::vector<TensorInfo> out;
  for (const Fold& fold : folds) {
    if (!fold.is_norm && !fold.has_bias) continue;
    const std::string name = fold.name + (fold.is_norm ? ".weight" : ".bias");
    out.push_back({name, DType::kF32, model.find(name)->shape});
  }
  return out;
}

std::vector<uint8_t> sign_of(const std::string& tap, int64_t columns, uint64_t seed) {
  Rng rng(hash64(std::as_bytes(std::span<const char>(tap)), seed));
  std::vector<uint8_t> sign(static_cast<size_t>((columns + 7) / 8));
  for (int64_t k = 0; k < columns; ++k)
    if (rng.bits() >> 63) sign[static_cast<size_t>(k / 8)] |= static_cast<uint8_t>(1u << (k % 8));
  return sign;
}

std::vector<PendingArray> artifact_arrays(const Model& model, const QuantizePlan& plan, const ArrayLookup& made) {
  Collector collector(made);
  std::set<std::string> quantized;
  for (const TensorPlan* tensor : plan.tensors()) quantized.insert(tensor->linear.name + ".weight");
  for (const int rate : used_rates(plan)) {
    const auto window = static_cast<int64_t>(plan.taps[static_cast<size_t>(rate)].size());
    collector.add_made({grid::taps_name(rate, static_cast<int>(window)), DType::kF32, {window}});
  }
  for (const auto& layer : plan.layers)
    for (const TensorPlan& tensor : layer) collector.add_tensor(tensor);
  for (const TensorPlan& tensor : plan.tables) collector.add_tensor(tensor);
  for (const auto& folds : plan.folds)
    for (const TensorInfo& info : changed_arrays(model, folds)) collector.add_made(info);
  if (uses_calibration(plan.options))
    for (const std::string& name : calibrated_vectors(model.spec)) collector.add_made({name, DType::kF32, model.find(name)->shape});
  if (uses_tuning(plan.options))
    for (const std::string& name : plain_vectors(model.spec)) collector.add_made({name, DType::kF32, model.find(name)->shape});
  for (const std::string& name : tensor_names(model.spec))
    if (!quantized.contains(name)) collector.add_kept(name, *model.find(name));
  return collector.take();
}

Status check_kept(const Model& model, const QuantizePlan& plan) {
  for (const PendingArray& array : artifact_arrays(model, plan, [](const std::string&) { return nullptr; }))
    if (array.write)
      if (const Status written = array.write([](std::span<const std::byte>) -> Status { return {}; }); !written)
        return fail(written.error().code, "{}: {}", model.source, written.error().message);
  return {};
}

MeanBits mean_bits(const QuantizePlan& plan) {
  double weights = 0, code = 0, stored = 0;
  std::set<std::string> taps;
  for (const auto& layer : plan.layers) {
    for (const TensorPlan& tensor : layer) {
      const Linear& linear = tensor.linear;
      weights += weights_of(linear);
      code += mean_rate(tensor) * weights_of(linear);
      for (const TensorInfo& info : arrays_of(tensor))
        stored += 8.0 * static_cast<double>(element_count(info.shape)) * static_cast<double>(dtype_size(info.dtype));
      if (is_rotated(tensor.method) && taps.insert(linear.tap).second) stored += 8.0 * static_cast<double>((linear.in + 7) / 8);
    }
  }
  return {code / weights, stored / weights};
}

double mean_rate(const TensorPlan& tensor) { return grid::mean_rate(tensor.rates, tensor.linear.out); }

void set_rates(const Model& model, QuantizePlan& plan, const std::vector<std::vector<Rates>>& rates) {
  for (size_t layer = 0; layer < rates.size(); ++layer)
    for (size_t i = 0; i < rates[layer].size(); ++i) plan.layers[layer][i].rates = rates[layer][i];
  plan.texts = artifact_texts(model, plan);
}

}  // namespace tq
