#include "graph/network.h"

#include <algorithm>
#include <numeric>

#include "base/hash.h"

namespace tq {
namespace {

// Slots of the workspace, behind those of the layers.
enum Slot : size_t { kHidden = 32, kLogits };

// Of a block, the matrices that share an input.
void add_products(const Block& block, const BlockWeights& weights, int64_t rows, std::vector<Reservation::Product>& products) {
  const auto add = [&](const std::vector<LinearWeight>& linears, size_t first, size_t last) {
    Reservation::Product& product = products.emplace_back();
    product.tokens = rows;
    for (size_t i = first; i < last; ++i) product.jobs.push_back(linears[i].job(nullptr));
  };
  if (std::holds_alternative<Moe>(block.op)) {
    add(weights.linears, 0, 1);
    for (const auto& expert : weights.experts) add(expert, 0, expert.size() - 1), add(expert, expert.size() - 1, expert.size());
  } else {
    const size_t last = weights.linears.size() - 1;
    add(weights.linears, 0, last), add(weights.linears, last, last + 1);
  }
}

AttendArgs attention_bounds(const Attention& op, const Network::Size& size) {
  AttendArgs args{.heads = op.heads, .precision = size.precision};
  args.kv.kv_heads = op.kv_heads, args.kv.head_dim = op.head_dim, args.kv.capacity = size.capacity;
  return args;
}

uint64_t bytes_of(const Model& model, const std::string& name) {
  const PackedTensor* tensor = model.find(name + ".weight");
  return tensor ? tensor->bytes() : 0;
}

// Where the middle of each layer lies, and the head's, for Backend::enter_depth.
std::vector<double> depths_of(const Model& model) {
  std::vector<uint64_t> bytes = {bytes_of(model, model.spec.embedding)};
  for (const auto& layer : model.spec.layers) {
    bytes.push_back(0);
    for (const Block& block : layer)
      for (const Linear* linear : linears(block)) bytes.back() += bytes_of(model, linear->name);
  }
  bytes.push_back(bytes_of(model, model.spec.head.name));
  const auto all = static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), uint64_t{1}));
  std::vector<double> depths;
  auto before = static_cast<double>(bytes[0]);
  for (size_t i = 1; i < bytes.size(); ++i) {
    const auto own = static_cast<double>(bytes[i]);
    depths.push_back((before + own / 2) / all);
    before += own;
  }
  return depths;
}

}  // namespace

Result<Network> Network::create(const Model& model, Backend& backend) {
  Network network(model, backend);
  network.depths_ = depths_of(model);
  for (int64_t i = 0; i < model.spec.layers_count(); ++i) {
    backend.enter_depth(network.depths_[static_cast<size_t>(i)]);
    TQ_ASSIGN(LayerWeights layer, prepare_layer(model, i, backend));
    network.layers_.push_back(std::move(layer));
    for (const Block& block : model.spec.layers[static_cast<size_t>(i)]) network.has_mixture_ |= std::holds_alternative<Moe>(block.op);
  }
  backend.enter_depth(network.depths_.back());
  TQ_ASSIGN(network.head_, prepare_head(model, backend));
  TQ_TRY(backend.reserve({.embedding = model.find(model.spec.embedding + ".weight")}));
  return network;
}

Status Network::reserve(const Size& size) {
  const ModelSpec& spec = model_->spec;
  const int64_t own_logits = size.has_own_logits ? size.head_rows : 0;
  Reservation all{.rows = size.rows, .precision = size.precision, .ranked_rows = own_logits};
  for (size_t i = 0; i < layers_.size(); ++i)
    for (size_t b = 0; b < layers_[i].size(); ++b) {
      const Block& block = spec.layers[i][b];
      add_products(block, layers_[i][b], size.rows, all.products);
      if (const auto* attention = std::get_if<Attention>(&block.op)) {
        all.attention.push_back(attention_bounds(*attention, size));
        for (const auto* table : {&attention->rope.inv_freq, &attention->rope.long_inv_freq})
          if (!table->empty()) all.frequencies.push_back(*table);
      }
    }
  all.products.push_back({.jobs = {head_.linear.job(nullptr)}, .tokens = size.head_rows});
  TQ_TRY(backend_->reserve(all));
  TQ_TRY(workspace_.reserve(forward_floats(spec, size.rows, size.head_rows)));
  TQ_TRY(workspace_.reserve(kHidden, size.rows * spec.hidden));
  return workspace_.reserve(kLogits, own_logits * spec.vocabulary);
}

const float* Network::forward(const Args& args) {
  const Stretch whole{
      .tokens = static_cast<int64_t>(args.tokens.size()), .first_position = args.first_position, .sequence_length = args.sequence_length};
  return forward_batch({.tokens = args.tokens, .stretches = {&whole, 1}, .cache = args.cache, .precision = args.precision});
}

const float* Network::forward_batch(const BatchArgs& args) {
  const ModelSpec& spec = model_->spec;
  const auto tokens = static_cast<int64_t>(args.tokens.size());
  TQ_CHECK(args.cache && tokens_of(args.stretches) == tokens);
  for (const Stretch& stretch : args.stretches) TQ_CHECK(stretch.first_position + stretch.tokens <= args.cache->capacity());
  float* hidden = workspace_.floats(kHidden, tokens * spec.hidden);
  backend_->pass({.tokens = args.tokens, .stretches = args.stretches, .recording = recording(args, hidden)}, [&] {
    backend_->enter_depth(0);
    embed(*model_, args.tokens, *backend_, hidden);
    for (int64_t i = 0; i < spec.layers_count(); ++i) {
      backend_->enter_depth(depths_[static_cast<size_t>(i)]);
      forward_layer(spec, i, layers_[static_cast<size_t>(i)], *backend_,
                    {.hidden = hidden, .stretches = args.stretches, .kv = args.cache->layer(i), .precision = args.precision}, workspace_);
    }
  });
  return hidden;
}

// Of a pass over one token of each sequence: equal when it goes through the same memory in the same way.
uint64_t Network::recording(const BatchArgs& args, const float* hidden) const {
  if (has_mixture_ || args.tokens.size() != args.stretches.size()) return 0;
  std::vector<uint64_t> parts = {reinterpret_cast<uintptr_t>(hidden), reinterpret_cast<uintptr_t>(args.cache->layer(0).key),
                                 static_cast<uint64_t>(args.cache->capacity()), static_cast<uint64_t>(args.precision)};
  for (const Stretch& stretch : args.stretches)
    parts.push_back(rotates_as_long(model_->spec, std::max(stretch.sequence_length, stretch.first_position + 1)));
  return hash64(std::as_bytes(std::span(parts))) | 1;
}

Network::Choice Network::choose(const float* hidden, Precision precision) {
  const float* logits = this->logits(hidden, 1, precision);
  return {backend_->argmax(logits, model_->spec.vocabulary), logits};
}

void Network::logits(const float* hidden, int64_t tokens, float* logits, Precision precision) {
  backend_->enter_depth(depths_.back());
  forward_head(model_->spec, head_, *backend_, {.hidden = hidden, .tokens = tokens, .logits = logits, .precision = precision}, workspace_);
}

const float* Network::logits(const float* hidden, int64_t tokens, Precision precision) {
  float* logits = workspace_.floats(kLogits, tokens * model_->spec.vocabulary);
  this->logits(hidden, tokens, logits, precision);
  return logits;
}

void Network::head(const float* hidden, int64_t tokens, float* logits, Precision precision) {
  const int64_t count = tokens * model_->spec.vocabulary;
  float* own = backend_->is_host() ? logits : workspace_.floats(kLogits, count);
  this->logits(hidden, tokens, own, precision);
  if (own != logits) backend_->download(logits, own, static_cast<uint64_t>(count) * sizeof(float));
}

uint64_t Network::bytes_per_token() const {
  uint64_t total = head_.linear.matrix->bytes();
  for (size_t i = 0; i < layers_.size(); ++i) {
    for (size_t b = 0; b < layers_[i].size(); ++b) {
      for (const LinearWeight& weight : layers_[i][b].linears) total += weight.matrix->bytes();
      const auto* moe = std::get_if<Moe>(&model_->spec.layers[i][b].op);
      if (!moe) continue;
      for (int64_t e = 0; e < moe->experts_per_token; ++e)
        for (const LinearWeight& weight : layers_[i][b].experts[static_cast<size_t>(e)]) total += weight.matrix->bytes();
    }
  }
  return total;
}

}  // namespace tq
