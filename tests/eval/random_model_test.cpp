#include "eval/random_model.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/hash.h"
#include "graph/network.h"
#include "kernels/cpu/cpu_backend.h"

namespace tq {
namespace {

TEST(RandomModel, IsTheSameOnAnyNumberOfThreads) {
  const std::string name = "model.layers.7.mlp.down_proj.weight";
  uint64_t hashes[2];
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    const auto model = make_random_model({.bits = 2}, pool);
    ASSERT_TRUE(model) << model.error().message;
    hashes[threads / 3] = hash64(model->find(name)->part("bits")->span());
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

TEST(RandomModel, HasTheShapesOfItsName) {
  const auto weights = [](std::string_view name) { return count_weights(random_model_spec({.name = name}).value()).all; };
  EXPECT_EQ(weights("llama-1b"), 1100048384);
  EXPECT_EQ(weights("llama-3-8b"), 8030261248);
  EXPECT_EQ(weights("llama-3-70b"), 70553706496);
  EXPECT_EQ(weights("qwen2.5-0.5b"), 494032768);
  EXPECT_EQ(weights("qwen3-8b"), 8190735360);
  EXPECT_EQ(weights("qwen3-30b-a3b"), 30532122624);
  EXPECT_EQ(weights("gemma-3-4b"), 3880263168);
  for (const std::string_view name : random_model_names()) EXPECT_GE(random_model_spec({.name = name})->context, 32768) << name;
}

TEST(RandomModel, ShortNamesMeanTheSame) {
  for (const auto& [name, other] : {std::pair("llama-8b", "llama-3-8b"), std::pair("llama-70b", "llama-3-70b")})
    EXPECT_EQ(count_weights(random_model_spec({.name = name}).value()).all, count_weights(random_model_spec({.name = other}).value()).all);
}

// Every part that a shape asks for is there, in small.
TEST(RandomModel, EveryShapeRuns) {
  ThreadPool pool(2);
  const auto backend = make_cpu_backend(pool, best_isa());
  Json changes = {{"hidden_size", 256},     {"intermediate_size", 512}, {"moe_intermediate_size", 128},
                  {"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                  {"head_dim", 64},         {"vocab_size", 512}};
  for (const std::string_view name : random_model_names())
    for (const int bits : {2, 5, 16}) {
      const auto model = make_random_model({.name = name, .bits = bits, .changes = changes}, pool);
      ASSERT_TRUE(model) << model.error().message;
      Network network = Network::create(*model, *backend).value();
      KvCache cache = KvCache::create(*backend, model->spec, KvType::kF16, 4).value();
      const int32_t tokens[] = {1, 2, 3};
      const Network::Choice choice = network.choose(network.forward({.tokens = tokens, .cache = &cache}));
      EXPECT_TRUE(std::isfinite(choice.logits[choice.token])) << name;
    }
}

TEST(RandomModel, ExpertsDiffer) {
  ThreadPool pool(2);
  const Json changes = {
      {"hidden_size", 256}, {"num_hidden_layers", 1}, {"vocab_size", 512}, {"num_experts", 2}, {"num_experts_per_tok", 1}};
  const Model model = make_random_model({.name = "qwen3-30b-a3b", .bits = 2, .changes = changes}, pool).value();
  const auto bits = model.find("model.layers.0.mlp.experts.down_proj.weight")->part("bits")->span();
  const size_t half = bits.size() / 2;
  EXPECT_NE(hash64(bits.first(half)), hash64(bits.subspan(half)));
  EXPECT_EQ(model.find("model.layers.0.mlp.gate.weight")->codec, CodecId::kPlain);
}

TEST(RandomModel, UnknownNamesAndRatesAreRefusedWithWhatThereIs) {
  ThreadPool pool(1);
  const Error error = make_random_model({.name = "gpt-9"}, pool).error();
  EXPECT_EQ(error.code, ErrorCode::kUsage);
  for (const std::string_view name : random_model_names()) EXPECT_NE(error.message.find(name), std::string::npos) << name;
  EXPECT_EQ(random_model_spec({.name = ""}).error().code, ErrorCode::kUsage);
  EXPECT_EQ(make_random_model({.bits = 9}, pool).error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace tq
