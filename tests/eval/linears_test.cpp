#include "eval/linears.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "eval/random_model.h"
#include "kernels/cpu/cpu_backend.h"

namespace tq {
namespace {

class Linears : public testing::Test {
 protected:
  Model model(std::string_view name, Json more = Json::object()) {
    Json changes = {{"hidden_size", 256},      {"intermediate_size", 512}, {"moe_intermediate_size", 128},
                    {"num_hidden_layers", 3},  {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                    {"head_dim", 64},          {"vocab_size", 512},        {"num_experts", 8},
                    {"num_experts_per_tok", 3}};
    changes.update(more);
    return make_random_model({.name = name, .bits = 3, .changes = changes}, threads_).value();
  }
  LinearsResult measure(const Network& network, std::vector<int64_t> tokens) {
    return measure_linears(network, {.tokens = std::move(tokens), .repetitions = 1}, context_).value();
  }
  static std::vector<std::string> names(const LinearsResult& result) {
    std::vector<std::string> names;
    for (const LinearSpeed& each : result.linears) names.push_back(each.name);
    return names;
  }
  static uint64_t bytes(const LinearsResult& result) {
    uint64_t sum = 0;
    for (const LinearSpeed& each : result.linears) sum += each.bytes;
    return sum;
  }

  ThreadPool threads_{2};
  Listener listener_;
  const Context context_{.threads = threads_, .listener = listener_};
  const std::unique_ptr<Backend> cpu_ = make_cpu_backend(threads_, best_isa());
};

TEST_F(Linears, AreThoseThatTheGraphRunsTogetherAndReadWhatATokenReads) {
  for (const auto& backend : {make_cpu_backend(threads_, best_isa()), make_ref_backend(threads_)}) {
    const Model llama = model("llama-1b");
    const Network network = Network::create(llama, *backend).value();
    const LinearsResult result = measure(network, {1});
    EXPECT_THAT(names(result), testing::ElementsAre("q k v", "o", "gate up", "down", "head"));
    EXPECT_EQ(bytes(result), network.bytes_per_token());
    for (const LinearSpeed& each : result.linears) {
      EXPECT_EQ(each.calls, each.name == "head" ? 1 : 3);
      EXPECT_GT(each.seconds, 0);
    }
    EXPECT_EQ(result.linears[0].rows, 512);
    EXPECT_EQ(result.linears[3].columns, 512);
    EXPECT_GT(result.read_bytes_per_second, 0);
  }
}

TEST_F(Linears, OfAMixtureATokenReadsItsExpertsAndManyTokensReadAll) {
  const Model mixture = model("qwen3-30b-a3b");
  const Network network = Network::create(mixture, *cpu_).value();
  const LinearsResult one = measure(network, {1}), many = measure(network, {5});
  EXPECT_THAT(names(one), testing::ElementsAre("q k v", "o", "router", "experts gate up", "experts down", "head"));
  EXPECT_EQ(bytes(one), network.bytes_per_token());
  EXPECT_EQ(one.linears[3].experts, 3);
  EXPECT_EQ(many.linears[3].experts, 8);
  EXPECT_EQ(many.linears[3].bytes * 3, one.linears[3].bytes * 8);
}

TEST_F(Linears, AreMeasuredForEveryNumberOfTokensAndALayerIsTheirSum) {
  const Model qwen = model("qwen2.5-0.5b");
  const Network network = Network::create(qwen, *cpu_).value();
  const LinearsResult result = measure(network, {2, 70});
  ASSERT_EQ(result.linears.size(), 10u);
  EXPECT_EQ(result.linears[4].tokens, 2);
  EXPECT_EQ(result.linears[5].tokens, 70);
  const LinearSpeed layer = mean_layer(result, 70, 3);
  double seconds = 0;
  for (size_t i = 5; i < 9; ++i) seconds += result.linears[i].seconds;
  EXPECT_NEAR(layer.seconds, seconds, 1e-9 * seconds);
  EXPECT_EQ(layer.bytes + result.linears[9].bytes, network.bytes_per_token());
}

TEST_F(Linears, NumbersOfTokensThatAreNoneAreRefused) {
  const Model llama = model("llama-1b");
  const Network network = Network::create(llama, *cpu_).value();
  EXPECT_EQ(measure_linears(network, {.tokens = {0}}, context_).error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace tq
