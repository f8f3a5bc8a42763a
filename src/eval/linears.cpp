#include "eval/linears.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/hash.h"
#include "base/rng.h"
#include "eval/speed.h"
#include "eval/statistics.h"

namespace tq {
namespace {

constexpr int64_t kMostTokens = 1 << 13;
constexpr int64_t kMostRecordedTokens = 64;  // decoding of so many streams repeats recorded passes; longer calls hide their launches
constexpr uint64_t kCachedBytes = uint64_t{128} << 20;
constexpr double kLeastSeconds = 0.02;  // of a measurement, if weights of earlier rounds are in no cache any more
constexpr int64_t kMostRounds = 64;

// Matrices that share an input.
struct Product {
  std::vector<LinearJob> jobs;
  int64_t tokens = 0;
};

// What the forward pass does at one place of a layer.
struct Call {
  double depth = 0;
  std::vector<Product> products;
};

struct Group {
  LinearSpeed speed;  // without seconds
  std::vector<Call> calls;
};

class Groups {
 public:
  Groups(const Network& network, int64_t tokens) : tokens_(tokens) {
    const ModelSpec& spec = network.model().spec;
    for (int64_t i = 0; i < spec.layers_count(); ++i) {
      const auto& blocks = spec.layers[static_cast<size_t>(i)];
      const LayerWeights& weights = network.layers()[static_cast<size_t>(i)];
      depth_ = network.depth_of(i), layer_ = i;
      for (size_t b = 0; b < blocks.size(); ++b) std::visit([&](const auto& op) { add(op, weights[b]); }, blocks[b].op);
    }
    depth_ = network.depth_of(spec.layers_count());
    add("head", {&network.head_weights().linear, 1});
  }

  std::vector<Group> take() { return std::move(groups_); }

 private:
  void add(const Attention& op, const BlockWeights& weights) { add_pair(op.qkv.size() == 1 ? "qkv" : "q k v", "o", weights.linears); }
  void add(const Mlp& op, const BlockWeights& weights) {
    add_pair(op.gate_up.size() == 1 ? "gate_up" : "gate up", "down", weights.linears);
  }
  void add(const Moe& op, const BlockWeights& weights) {
    add("router", {weights.linears.data(), 1});
    const auto inner = [](const std::vector<LinearWeight>& expert) { return std::span(expert).first(expert.size() - 1); };
    const auto outer = [](const std::vector<LinearWeight>& expert) { return std::span(expert).last(1); };
    add_experts("experts gate up", op, weights, inner);
    add_experts("experts down", op, weights, outer);
  }

  // All but the last linear read what a norm gives, the last what is computed from them.
  void add_pair(const char* first, const char* second, std::span<const LinearWeight> linears) {
    add(first, linears.first(linears.size() - 1));
    add(second, linears.last(1));
  }
  void add(const char* name, std::span<const LinearWeight> linears) { add_call(name, 0, {linears}, {tokens_}); }

  // Every token goes to as many experts as the model says, all experts in turn; layers begin at different ones.
  template <typename Part>
  void add_experts(const char* name, const Moe& op, const BlockWeights& weights, const Part& part) {
    const auto count = static_cast<int64_t>(weights.experts.size());
    const int64_t routes = tokens_ * op.experts_per_token, used = std::min(count, routes);
    std::vector<std::span<const LinearWeight>> experts;
    std::vector<int64_t> tokens;
    for (int64_t i = 0; i < used; ++i) {
      experts.push_back(part(weights.experts[static_cast<size_t>((layer_ * op.experts_per_token + i) % count)]));
      tokens.push_back(routes / used + (i < routes % used));
    }
    add_call(name, used, experts, tokens);
  }

  void add_call(const char* name, int64_t experts, const std::vector<std::span<const LinearWeight>>& parts,
                const std::vector<int64_t>& tokens) {
    Call call{.depth = depth_, .products = {}};
    uint64_t bytes = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      Product& product = call.products.emplace_back();
      product.tokens = tokens[i];
      for (const LinearWeight& linear : parts[i]) product.jobs.push_back(linear.job(nullptr)), bytes += linear.matrix->bytes();
    }
    int64_t rows = 0;
    for (const LinearWeight& linear : parts[0]) rows += linear.matrix->rows();
    Group& group = group_of({.name = name, .tokens = tokens_, .rows = rows, .columns = parts[0][0].matrix->columns(), .experts = experts});
    group.speed.bytes += bytes, ++group.speed.calls;
    group.calls.push_back(std::move(call));
  }

  Group& group_of(const LinearSpeed& kind) {
    for (Group& group : groups_)
      if (group.speed.name == kind.name && group.speed.rows == kind.rows && group.speed.columns == kind.columns) return group;
    return groups_.emplace_back(Group{.speed = kind, .calls = {}});
  }

  int64_t tokens_, layer_ = 0;
  double depth_ = 0;
  std::vector<Group> groups_;
};

// Room for the input and the outputs of any call.
class Room {
 public:
  static Result<Room> create(Backend& backend, std::span<const Group> groups) {
    int64_t inputs = 0, outputs = 0;
    for (const Group& group : groups)
      for (const Product& product : group.calls[0].products) {
        inputs = std::max(inputs, product.tokens * group.speed.columns);
        outputs = std::max(outputs, product.tokens * group.speed.rows);
      }
    Room room;
    TQ_ASSIGN(room.input_, backend.allocate(static_cast<uint64_t>(inputs) * sizeof(float)));
    TQ_ASSIGN(room.output_, backend.allocate(static_cast<uint64_t>(outputs) * sizeof(float)));
    Rng rng(1);
    std::vector<float> values(static_cast<size_t>(inputs));
    constexpr size_t kDifferent = size_t{1} << 20;
    for (size_t i = 0; i < values.size(); ++i) values[i] = i < kDifferent ? static_cast<float>(rng.gaussian()) : values[i - kDifferent];
    backend.upload(room.input_.as<float>(), values.data(), values.size() * sizeof(float));
    return room;
  }

  const float* input() const { return input_.as<float>(); }
  // Side by side, for every job of every call.
  void place(Group& group) const {
    for (Call& call : group.calls)
      for (Product& product : call.products) {
        float* output = output_.as<float>();
        for (LinearJob& job : product.jobs) job.output = output, output += product.tokens * job.matrix->rows();
      }
  }

 private:
  Memory input_, output_;
};

// Seconds of so many rounds through all layers, from an idle backend to an idle backend.
double time_rounds(Backend& backend, const Group& group, const float* input, int64_t rounds) {
  const int64_t tokens = group.speed.tokens;
  const std::vector<int32_t> ids(static_cast<size_t>(tokens));
  const std::vector<Stretch> stretches(ids.size(), {.tokens = 1});
  const uint64_t address[] = {reinterpret_cast<uintptr_t>(group.calls[0].products[0].jobs[0].matrix), reinterpret_cast<uintptr_t>(input),
                              static_cast<uint64_t>(tokens)};
  const auto round = [&] {
    for (const Call& call : group.calls) {
      backend.enter_depth(call.depth);
      for (const Product& product : call.products) backend.linear({.input = input, .tokens = product.tokens, .jobs = product.jobs});
    }
  };
  const PassArgs pass{.tokens = ids, .stretches = stretches, .recording = hash64(std::as_bytes(std::span(address))) | 1};
  backend.synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < rounds; ++i) {
    if (tokens <= kMostRecordedTokens) backend.pass(pass, round);
    else round();
  }
  backend.synchronize();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// One number of tokens.
class Measurement {
 public:
  static Result<Measurement> create(const Network& network, int64_t tokens) {
    Measurement all(network.backend(), Groups(network, tokens).take());
    TQ_ASSIGN(all.room_, Room::create(network.backend(), all.groups_));
    for (Group& group : all.groups_) all.room_.place(group);
    return all;
  }

  // Twice before anything is timed: memory grows, passes are recorded.
  void warm_up() {
    for (const Group& group : groups_) {
      for (int i = 0; i < 2; ++i) time_rounds(*backend_, group, room_.input(), 1);
      const double seconds = time_rounds(*backend_, group, room_.input(), 1);
      const auto rounds = static_cast<int64_t>(std::ceil(kLeastSeconds / std::max(seconds, 1e-6)));
      rounds_.push_back(group.speed.bytes < kCachedBytes ? 1 : std::clamp<int64_t>(rounds, 1, kMostRounds));
    }
    seconds_.resize(groups_.size());
  }

  void repeat(ReadMeter& read, std::vector<double>& reading) {
    for (size_t i = 0; i < groups_.size(); ++i) {
      reading.push_back(read.bytes_per_second());
      const auto calls = static_cast<double>(rounds_[i] * groups_[i].speed.calls);
      seconds_[i].push_back(time_rounds(*backend_, groups_[i], room_.input(), rounds_[i]) / calls);
    }
  }

  void add_to(std::vector<LinearSpeed>& linears) const {
    for (size_t i = 0; i < groups_.size(); ++i) {
      LinearSpeed speed = groups_[i].speed;
      speed.seconds = median(seconds_[i]);
      speed.bytes_per_second = static_cast<double>(speed.bytes) / static_cast<double>(speed.calls) / speed.seconds;
      linears.push_back(std::move(speed));
    }
  }

 private:
  Measurement(Backend& backend, std::vector<Group> groups) : backend_(&backend), groups_(std::move(groups)) {}

  Backend* backend_;
  std::vector<Group> groups_;
  Room room_;
  std::vector<int64_t> rounds_;               // of a measurement
  std::vector<std::vector<double>> seconds_;  // of a call, by repetition
};

}  // namespace

Result<LinearsResult> measure_linears(const Network& network, const LinearsOptions& options, const Context& context) {
  for (const int64_t tokens : options.tokens)
    if (tokens < 1 || tokens > kMostTokens) return bad_usage("linears of {} tokens: give 1 to {}", tokens, kMostTokens);
  if (options.repetitions < 1) return bad_usage("repetitions must be at least 1");
  ReadMeter read(network.backend(), context.threads);
  LinearsResult result;
  std::vector<double> reading;
  for (const int64_t tokens : options.tokens) {
    TQ_ASSIGN(Measurement measurement, Measurement::create(network, tokens));
    measurement.warm_up();
    for (int i = 0; i < options.repetitions; ++i) {
      if (context.stopped()) return fail(ErrorCode::kInterrupted, "stopped");
      measurement.repeat(read, reading);
      context.listener.progress(fmt::format("{}, linears of {} tokens", network.model().source, tokens), i + 1, options.repetitions);
    }
    measurement.add_to(result.linears);
  }
  if (!reading.empty()) result.read_bytes_per_second = median(reading);
  return result;
}

LinearSpeed mean_layer(const LinearsResult& result, int64_t tokens, int64_t layers) {
  LinearSpeed layer{.name = "layer", .tokens = tokens, .calls = layers};
  double seconds = 0;
  for (const LinearSpeed& each : result.linears) {
    if (each.tokens != tokens || each.name == "head") continue;
    layer.bytes += each.bytes;
    seconds += each.seconds * static_cast<double>(each.calls);
  }
  layer.seconds = seconds / static_cast<double>(layers);
  layer.bytes_per_second = static_cast<double>(layer.bytes) / seconds;
  return layer;
}

}  // namespace tq
