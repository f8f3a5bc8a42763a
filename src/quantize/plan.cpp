#include "quantize/plan.h"

#include <algorithm>
#include <set>

#include "artifact/format.h"
#include "base/float16.h"
#include "base/hash.h"
#include "base/rng.h"
#include "quantize/card.h"

namespace tq {
namespace {

using safetensors::TensorInfo;

Status check_options(const QuantizeOptions& options) {
  if (!(options.bits >= 2.0 && options.bits <= 8.0)) return bad_usage("--bits {}: give a number from 2 to 8", options.bits);
  for (const int bits : {options.embedding_bits, options.head_bits})
    if (bits != 0 && (bits < 2 || bits > 8)) return bad_usage("{} bits for the embedding or head: give 2 to 8, or 'original'", bits);
  if (options.sequence < 16) return bad_usage("calibration sequences of {} tokens are too short", options.sequence);
  return {};
}

Linear embedding_linear(const ModelSpec& spec) {
  return Linear{.name = spec.embedding, .in = spec.hidden, .out = spec.vocabulary, .tap = spec.embedding, .role = Role::kHead};
}

// Plane rows of a matrix, or of each expert of a stack.
std::vector<int64_t> plane_rows(const TensorPlan& tensor) {
  const int64_t rows = tensor.linear.out, ranges = (rows + grid::kRateRows - 1) / grid::kRateRows;
  std::vector<int64_t> sums(tensor.rates.size() / static_cast<size_t>(ranges));
  for (size_t i = 0; i < tensor.rates.size(); ++i) {
    const auto range = static_cast<int64_t>(i) % ranges;
    sums[i / static_cast<size_t>(ranges)] += tensor.rates[i] * std::min(grid::kRateRows, rows - range * grid::kRateRows);
  }
  return sums;
}

std::set<int> used_rates(const QuantizePlan& plan) {
  std::set<int> used;
  for (const TensorPlan* tensor : plan.tensors()) used.insert(tensor->rates.begin(), tensor->rates.end());
  return used;
}

bool is_plain(const PackedTensor& tensor) {
  return tensor.codec == CodecId::kPlain && tensor.parts.size() == 1 && tensor.offset == 0.0f && tensor.interleaved_head_dim == 0;
}

Status write_converted(const PackedTensor& tensor, DType dtype, const std::function<Status(std::span<const std::byte>)>& sink) {
  const int64_t columns = tensor.columns(), band = std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(1, columns));
  std::vector<float> values(static_cast<size_t>(band * columns));
  std::vector<uint16_t> halves(values.size());
  for (int64_t row = 0; row < tensor.rows(); row += band) {
    const int64_t count = std::min(band, tensor.rows() - row);
    decode_rows(tensor, row, count, values.data());
    const auto n = static_cast<size_t>(count * columns);
    for (size_t i = 0; i < n; ++i) halves[i] = dtype == DType::kBF16 ? float_to_bf16(values[i]) : float_to_f16(values[i]);
    TQ_TRY(dtype == DType::kF32 ? sink(std::as_bytes(std::span<const float>(values.data(), n)))
                                : sink(std::as_bytes(std::span<const uint16_t>(halves.data(), n))));
  }
  return {};
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
  void add_grid(const TensorPlan& tensor) {
    for (const TensorInfo& info : arrays_of(tensor)) add_made(info);
    add_made({tensor.linear.tap + ".sign", DType::kU8, {(tensor.linear.in + 7) / 8}});
  }
  std::vector<PendingArray> take() { return std::move(arrays_); }

 private:
  const ArrayLookup& made_;
  std::set<std::string> names_;
  std::vector<PendingArray> arrays_;
};

}  // namespace

PendingArray converted(const std::string& name, const PackedTensor& tensor, DType dtype) {
  return {{name, dtype, tensor.shape}, [tensor, dtype](const auto& sink) { return write_converted(tensor, dtype, sink); }};
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
  plan.taps = taps_of(options.effort);
  std::vector<const Linear*> all = linears(spec);
  std::erase_if(all, [](const Linear* linear) { return linear->role == Role::kRouter; });  // routers stay as they are
  const std::vector<Rates> rates = uniform_rates(all, options.bits);
  size_t next = 0;
  for (const auto& layer : spec.layers) {
    plan.layers.emplace_back();
    for (const Block& block : layer)
      for (const Linear* linear : linears(block))
        if (linear->role != Role::kRouter) plan.layers.back().push_back({*linear, rates[next++]});
  }
  if (options.head_bits > 0) plan.tables.push_back({spec.head, constant_rates(spec.head, options.head_bits)});
  if (!spec.tied && options.embedding_bits > 0) {
    const Linear embedding = embedding_linear(spec);
    plan.tables.push_back({embedding, constant_rates(embedding, options.embedding_bits)});
  }
  plan.texts = artifact_texts(model, plan);
  return plan;
}

std::vector<TensorInfo> arrays_of(const TensorPlan& tensor) {
  const Linear& linear = tensor.linear;
  int64_t padded_rows = 0;
  for (const int64_t rows : plane_rows(tensor)) padded_rows += (rows + grid::kLineRows - 1) / grid::kLineRows * grid::kLineRows;
  const int64_t padded_columns = (linear.in + grid::kLineColumns - 1) / grid::kLineColumns * grid::kLineColumns;
  return {{linear.name + ".bits", DType::kU8, {padded_rows / 8 * padded_columns}},
          {linear.name + ".row_scale", DType::kF16, {std::max<int64_t>(1, linear.experts) * linear.out}},
          {linear.name + ".rates", DType::kU8, {static_cast<int64_t>(tensor.rates.size())}},
          {linear.name + ".activation_bits", DType::kU8, {1}}};
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
    collector.add_made({taps_name(rate, static_cast<int>(window)), DType::kF32, {window}});
  }
  for (const auto& layer : plan.layers)
    for (const TensorPlan& tensor : layer) collector.add_grid(tensor);
  for (const TensorPlan& tensor : plan.tables) collector.add_grid(tensor);
  for (const std::string& name : tensor_names(model.spec))
    if (!quantized.contains(name)) collector.add_kept(name, *model.find(name));
  return collector.take();
}

MeanBits mean_bits(const QuantizePlan& plan) {
  double weights = 0, code = 0, stored = 0;
  std::set<std::string> taps;
  for (const auto& layer : plan.layers) {
    for (const TensorPlan& tensor : layer) {
      const Linear& linear = tensor.linear;
      weights += static_cast<double>(std::max<int64_t>(1, linear.experts) * linear.in) * static_cast<double>(linear.out);
      for (const int64_t rows : plane_rows(tensor)) code += static_cast<double>(rows) * static_cast<double>(linear.in);
      for (const TensorInfo& info : arrays_of(tensor))
        stored += 8.0 * static_cast<double>(element_count(info.shape)) * static_cast<double>(dtype_size(info.dtype));
      if (taps.insert(linear.tap).second) stored += 8.0 * static_cast<double>((linear.in + 7) / 8);
    }
  }
  return {code / weights, stored / weights};
}

}  // namespace tq
