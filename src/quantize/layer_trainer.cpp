#include "quantize/layer_trainer.h"

#include <algorithm>
#include <cmath>

namespace tq {
namespace {

// Losses are scaled so that they begin near 1: gradients of single weights are then far above it.
constexpr float kEpsilon = 1e-12f;

constexpr uint64_t bytes_of(int64_t floats) { return static_cast<uint64_t>(floats) * sizeof(float); }

std::vector<float> downloaded(Backend& backend, const float* values, int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  backend.download(out.data(), values, bytes_of(count));
  return out;
}

}  // namespace

Result<LayerTrainer> LayerTrainer::create(const Settings& settings, LayerWeights& weights, Backend& backend) {
  LayerTrainer trainer(settings, weights, backend);
  TQ_TRY(trainer.allocate());
  return trainer;
}

LayerTrainer::LayerTrainer(const Settings& settings, LayerWeights& weights, Backend& backend) : settings_(settings), backend_(&backend) {
  const auto& blocks = settings.spec.layers[static_cast<size_t>(settings.layer)];
  for (size_t b = 0; b < blocks.size(); ++b) add_block(blocks[b], weights[b]);
}

void LayerTrainer::add_block(const Block& block, BlockWeights& weights) {
  const double offset = static_cast<double>(settings_.spec.norm_offset);
  add_vector(block.pre.name, weights.pre, offset);
  if (block.post) add_vector(block.post->name, weights.post, offset);
  if (const auto* attention = std::get_if<Attention>(&block.op)) {
    if (attention->query_norm) add_vector(attention->query_norm->name, weights.query_norm, offset);
    if (attention->key_norm) add_vector(attention->key_norm->name, weights.key_norm, offset);
  }
  const std::vector<const Linear*> linears = tq::linears(block);
  for (size_t i = 0; i < linears.size(); ++i) {
    LinearWeight& weight = weights.linears[i];
    OwnLinear own{.linear = linears[i], .weight = &weight};
    const int64_t rows = linears[i]->out, count = rows * linears[i]->in;
    longest_ = std::max(longest_, rows);
    float* values = backend_->training()->weights(*weight.matrix);
    TQ_CHECK(values != nullptr);
    const bool is_trained = settings_.rates.weight > 0;
    own.matrix = {values, reserve(is_trained ? count : rows), is_trained ? count : 0,
                  settings_.rates.weight * root_mean_square(values, count, 0)};
    if (!weight.bias.empty())
      own.bias = {weight.bias.data(), reserve(rows), rows, settings_.rates.vector * root_mean_square(weight.bias.data(), rows, 0)};
    linear_index_[own.linear] = linears_.size();
    linears_.push_back(std::move(own));
  }
}

void LayerTrainer::add_vector(const std::string& name, DeviceVector& values, double offset) {
  const auto count = static_cast<int64_t>(values.size());
  norm_index_[name] = norms_.size();
  norms_.push_back(
      {name + ".weight", {values.data(), reserve(count), count, settings_.rates.vector * root_mean_square(values.data(), count, offset)}});
}

int64_t LayerTrainer::reserve(int64_t count) {
  constexpr int64_t kAlignment = 16;  // floats
  const int64_t at = floats_;
  floats_ += (count + kAlignment - 1) / kAlignment * kAlignment;
  return at;
}

double LayerTrainer::root_mean_square(const float* values, int64_t count, double offset) const {
  double sum = 0;
  if (offset == 0) {
    sum = backend_->training()->dot(values, values, count);
  } else {
    for (const float each : downloaded(*backend_, values, count)) sum += (each + offset) * (each + offset);
  }
  return std::sqrt(sum / static_cast<double>(count));
}

Status LayerTrainer::allocate() {
  for (Memory* memory : {&gradient_, &first_, &second_, &best_}) {
    TQ_ASSIGN(*memory, backend_->allocate(bytes_of(floats_)));
  }
  for (Memory* memory : {&ones_, &change_}) {
    TQ_ASSIGN(*memory, backend_->allocate(bytes_of(longest_)));
  }
  const std::vector<float> ones(static_cast<size_t>(longest_), 1.0f);
  backend_->upload(ones_.as<float>(), ones.data(), bytes_of(longest_));
  for (OwnLinear& own : linears_) {
    TQ_ASSIGN(own.factor, backend_->allocate(bytes_of(own.linear->out)));
    backend_->copy(own.factor.as<float>(), ones_.as<float>(), bytes_of(own.linear->out));
  }
  backend_->zero(gradient_.as<float>(), floats_);
  return {};
}

void LayerTrainer::fix(size_t i, std::unique_ptr<Matrix> rounded) {
  OwnLinear& own = linears_[i];
  own.weight->matrix = std::move(rounded);
  own.is_fixed = true;
  own.matrix.value = own.factor.as<float>();
  own.matrix.count = own.linear->out;
  own.matrix.rate = settings_.rates.vector;
}

bool LayerTrainer::is_started() const {
  return std::any_of(linears_.begin(), linears_.end(), [](const OwnLinear& own) { return own.is_fixed; });
}

void LayerTrainer::begin() {
  for (const Memory* memory : {&gradient_, &first_, &second_}) backend_->zero(memory->as<float>(), floats_);
  steps_ = 0;
  keep();
}

Result<Memory> LayerTrainer::gram(const std::vector<size_t>& linears) const {
  const int64_t columns = linears_[linears.at(0)].linear->in;
  TQ_ASSIGN(Memory sum, backend_->allocate(bytes_of(columns * columns)));
  backend_->zero(sum.as<float>(), columns * columns);
  for (const size_t i : linears)
    backend_->training()->weight({.input = values_of(i),
                                  .gradient = values_of(i),
                                  .weight_gradient = sum.as<float>(),
                                  .tokens = linears_[i].linear->out,
                                  .columns = columns,
                                  .all_rows = columns,
                                  .first_row = 0,
                                  .rows = columns});
  return sum;
}

void LayerTrainer::add(size_t i, const float* change) {
  const Linear& linear = *linears_[i].linear;
  backend_->add(linears_[i].matrix.value, change, linear.out * linear.in);
}

void LayerTrainer::add_product(size_t i, const float* change, float* scratch) {
  const Linear& linear = *linears_[i].linear;
  backend_->copy(scratch, values_of(i), bytes_of(linear.out * linear.in));
  backend_->training()->product({.left = scratch,
                                 .right = change,
                                 .output = linears_[i].matrix.value,
                                 .rows = linear.out,
                                 .columns = linear.in,
                                 .depth = linear.in,
                                 .accumulate = true});
}

GradientSinks LayerTrainer::sinks() {
  return {.linear = [this](const LinearGradient& gradient) { collect(gradient); },
          .norm =
              [this](const NormGradient& gradient) {
                const Parameter& own = norms_[norm_index_.at(gradient.norm.name)].parameter;
                backend_->add(gradient_.as<float>() + own.at, gradient.weight_gradient, own.count);
              }};
}

void LayerTrainer::collect(const LinearGradient& gradient) {
  const OwnLinear& own = linears_[linear_index_.at(&gradient.linear)];
  Training& training = *backend_->training();
  const int64_t rows = own.linear->out;
  float* sum = gradient_.as<float>() + own.matrix.at;
  if (own.is_fixed)
    training.row_scale_gradient({.output = gradient.output,
                                 .bias = gradient.bias,
                                 .gradient = gradient.gradient,
                                 .sum = sum,
                                 .tokens = gradient.tokens,
                                 .rows = rows});
  else if (own.matrix.count > 0)
    training.weight({.input = gradient.input,
                     .gradient = gradient.gradient,
                     .weight_gradient = sum,
                     .tokens = gradient.tokens,
                     .columns = own.linear->in,
                     .all_rows = rows,
                     .first_row = 0,
                     .rows = rows});
  if (own.bias.count > 0)
    training.column_sum(
        {.gradient = gradient.gradient, .sum = gradient_.as<float>() + own.bias.at, .tokens = gradient.tokens, .rows = rows});
}

void LayerTrainer::update(const Parameter& parameter, float* value, double factor) {
  if (parameter.count == 0) return;
  backend_->training()->adam({.value = value,
                              .gradient = gradient_.as<float>() + parameter.at,
                              .first = first_.as<float>() + parameter.at,
                              .second = second_.as<float>() + parameter.at,
                              .count = parameter.count,
                              .step = steps_,
                              .rate = static_cast<float>(parameter.rate * factor),
                              .epsilon = kEpsilon});
}

void LayerTrainer::scale(OwnLinear& own, const float* factor) {
  const int64_t rows = own.linear->out;
  Training& training = *backend_->training();
  training.scale_rows({.values = training.weights(*own.weight->matrix), .factor = factor, .rows = rows, .columns = own.linear->in});
  training.scale_rows({.values = own.factor.as<float>(), .factor = factor, .rows = rows, .columns = 1});
}

void LayerTrainer::step(double factor) {
  ++steps_;
  for (OwnLinear& own : linears_) {
    update(own.bias, own.bias.value, factor);
    if (!own.is_fixed) {
      update(own.matrix, own.matrix.value, factor);
      continue;
    }
    // Adam on the logarithm of the factor, to first order: a step from 1 that multiplies.
    backend_->copy(change_.as<float>(), ones_.as<float>(), bytes_of(own.linear->out));
    update(own.matrix, change_.as<float>(), factor);
    scale(own, change_.as<float>());
  }
  for (OwnVector& own : norms_) update(own.parameter, own.parameter.value, factor);
}

void LayerTrainer::copy_best(bool to_best) {
  const auto copy = [&](const Parameter& parameter) {
    if (parameter.count == 0) return;
    float* best = best_.as<float>() + parameter.at;
    if (to_best) backend_->copy(best, parameter.value, bytes_of(parameter.count));
    else backend_->copy(parameter.value, best, bytes_of(parameter.count));
  };
  for (const OwnLinear& own : linears_) copy(own.matrix), copy(own.bias);
  for (const OwnVector& own : norms_) copy(own.parameter);
}

void LayerTrainer::keep() { copy_best(true); }

void LayerTrainer::restore() {
  for (OwnLinear& own : linears_) {
    if (!own.is_fixed) continue;
    const std::vector<float> now = row_factors(static_cast<size_t>(&own - linears_.data()));
    std::vector<float> back = downloaded(*backend_, best_.as<float>() + own.matrix.at, own.linear->out);
    if (now == back) continue;
    for (size_t r = 0; r < back.size(); ++r) back[r] /= now[r];
    backend_->upload(change_.as<float>(), back.data(), bytes_of(own.linear->out));
    scale(own, change_.as<float>());
  }
  copy_best(false);
}

std::vector<float> LayerTrainer::row_factors(size_t i) const {
  return downloaded(*backend_, linears_[i].factor.as<float>(), linears_[i].linear->out);
}

Buffer<float> LayerTrainer::weights_of(size_t i) const {
  const OwnLinear& own = linears_[i];
  const int64_t count = own.linear->out * own.linear->in;
  auto out = Buffer<float>::uninitialized(static_cast<size_t>(count));
  backend_->download(out.data(), values_of(i), bytes_of(count));
  return out;
}

const float* LayerTrainer::values_of(size_t i) const { return backend_->training()->weights(*linears_[i].weight->matrix); }

std::map<std::string, std::vector<float>> LayerTrainer::vectors() const {
  std::map<std::string, std::vector<float>> out;
  for (const OwnLinear& own : linears_)
    if (own.bias.count > 0) out[own.linear->name + ".bias"] = downloaded(*backend_, own.bias.value, own.bias.count);
  for (const OwnVector& own : norms_) out[own.name] = downloaded(*backend_, own.parameter.value, own.parameter.count);
  return out;
}

}  // namespace tq
