#include "eval/speed.h"

#include <gtest/gtest.h>

#include "eval/random_model.h"
#include "kernels/cpu/cpu_backend.h"
#include "run/limited_backend.h"

namespace tq {
namespace {

// Small enough for a test, with the parts of its shape.
Json small(int64_t layers) {
  return {{"hidden_size", 256},       {"intermediate_size", 512}, {"num_hidden_layers", layers}, {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"head_dim", 64},           {"vocab_size", 512},           {"max_position_embeddings", 64}};
}

// The processor's, which remembers what attention was asked for.
class WatchedBackend final : public Backend {
 public:
  explicit WatchedBackend(ThreadPool& threads) : inner_(make_cpu_backend(threads, best_isa())) {}
  std::vector<Stretch> attended;

  std::string name() const override { return inner_->name(); }
  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override { return inner_->prepare(tensor, expert); }
  void embed(const EmbedArgs& args) override { inner_->embed(args); }
  void linear(const LinearArgs& args) override { inner_->linear(args); }
  void norm(const NormArgs& args) override { inner_->norm(args); }
  void rotary(const RotaryArgs& args) override { inner_->rotary(args); }
  void kv_store(const KvStoreArgs& args) override { inner_->kv_store(args); }
  void attend(const AttendArgs& args) override {
    attended.insert(attended.end(), args.stretches.begin(), args.stretches.end());
    inner_->attend(args);
  }
  void gated(const GatedArgs& args) override { inner_->gated(args); }
  void add(float* sum, const float* addend, int64_t count) override { inner_->add(sum, addend, count); }
  void score(const ScoreArgs& args) override { inner_->score(args); }

 private:
  std::unique_ptr<Backend> inner_;
};

class Speed : public testing::Test {
 protected:
  ThreadPool threads_{2};
  Listener listener_;
  const Context context_{.threads = threads_, .listener = listener_};
  const Model model_ = make_random_model({.bits = 3, .changes = small(1)}, threads_).value();
};

// What a pass may need is there before the first one.
TEST_F(Speed, OfAModelThatADeviceHasNoMemoryForIsRefused) {
  LimitedBackend device(make_cpu_backend(threads_, best_isa()));
  const uint64_t before = device.used();
  UsedMemory watching(device);
  const auto measured = [&] {
    Network network = Network::create(model_, device).value();
    const SpeedOptions options{.prompt_tokens = 7, .answer_tokens = 3, .depth = 20, .repetitions = 1};
    const uint64_t loaded = device.used();
    auto result = measure_speed(network, options, {.threads = threads_, .listener = watching});
    return std::pair(std::move(result), loaded);
  };
  const auto [enough, loaded] = measured();
  ASSERT_TRUE(enough) << enough.error().message;
  ASSERT_EQ(device.used(), before);
  const uint64_t needed = watching.used - loaded;
  for (const uint64_t part : {0, 30, 60, 99}) {
    device.set_limit(loaded + needed * part / 100);
    const auto refused = measured().first;
    ASSERT_FALSE(refused) << part;
    EXPECT_EQ(refused.error().code, ErrorCode::kNoResource);
  }
  device.set_limit(loaded + needed);
  EXPECT_TRUE(measured().first);
}

TEST_F(Speed, ThePromptAndTheAnswerStandBehindTheTokensOfTheDepth) {
  WatchedBackend backend(threads_);
  Network network = Network::create(model_, backend).value();
  const SpeedOptions options{.prompt_tokens = 7, .answer_tokens = 3, .depth = 20, .repetitions = 2};
  ASSERT_TRUE(measure_speed(network, options, context_));
  std::vector<std::pair<int64_t, int64_t>> places;  // first position, tokens
  for (const Stretch& stretch : backend.attended) places.emplace_back(stretch.first_position, stretch.tokens);
  using Places = std::vector<std::pair<int64_t, int64_t>>;
  const Places answer = {{20, 1}, {21, 1}, {22, 1}}, prompt = {{20, 7}};
  Places expected = {{0, 20}};  // once
  for (const Places& part : {answer, answer, prompt, answer, prompt}) expected.insert(expected.end(), part.begin(), part.end());
  EXPECT_EQ(places, expected);
}

TEST_F(Speed, ALongContextIsFilledInPieces) {
  Json changes = small(1);
  changes["max_position_embeddings"] = 2048;
  const Model model = make_random_model({.bits = 2, .changes = changes}, threads_).value();
  WatchedBackend backend(threads_);
  Network network = Network::create(model, backend).value();
  ASSERT_TRUE(measure_speed(network, {.prompt_tokens = 1, .answer_tokens = 1, .depth = 1100, .repetitions = 1}, context_));
  int64_t filled = 0;
  for (const Stretch& stretch : backend.attended) {
    if (stretch.first_position >= 1100) continue;
    EXPECT_EQ(stretch.first_position, filled);
    filled += stretch.tokens;
  }
  EXPECT_EQ(filled, 1100);
}

TEST_F(Speed, WhatStandsInTheContextChangesTheLogitsAndNothingElseDoes) {
  const auto backend = make_cpu_backend(threads_, best_isa());
  Network network = Network::create(model_, *backend).value();
  const auto hash = [&](int64_t depth, int64_t prompt) {
    return measure_speed(network, {.prompt_tokens = prompt, .answer_tokens = 4, .depth = depth, .repetitions = 1}, context_)->logits_hash;
  };
  EXPECT_EQ(hash(9, 1), hash(9, 1));
  EXPECT_NE(hash(9, 1), hash(10, 1));
  EXPECT_NE(hash(9, 1), hash(0, 1));
}

TEST_F(Speed, ADepthBeyondTheContextIsRefusedWithTheLongest) {
  EXPECT_TRUE(check_speed(model_.spec, "M", {.prompt_tokens = 24, .answer_tokens = 8, .depth = 40}));
  const Error error = check_speed(model_.spec, "M", {.prompt_tokens = 24, .answer_tokens = 8, .depth = 41}).error();
  EXPECT_EQ(error.code, ErrorCode::kUsage);
  EXPECT_EQ(error.message, "24 tokens behind 41 others: M was made for 64, so that the depth can be up to 40");
}

}  // namespace
}  // namespace tq
