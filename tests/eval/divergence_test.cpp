#include "eval/divergence.h"

#include <chrono>
#include <cmath>
#include <thread>

#include <gmock/gmock.h>

#include "artifact/reader.h"
#include "eval/summary.h"
#include "kernels/cpu/cpu_backend.h"
#include "run/limited_backend.h"

namespace tq {
namespace {

using testing::HasSubstr;

struct Machine {
  explicit Machine(const std::string& name, Backend& backend)
      : model(read_artifact(TQ_TEST_DATA "/artifact/format-1/" + name).value()), network(Network::create(model, backend).value()) {}
  Model model;
  Network network;
};

class Divergence : public testing::Test {
 protected:
  EvalText text(size_t tokens = 100) const {
    EvalText out{"text", {}};
    for (size_t i = 0; i < tokens; ++i) out.tokens.push_back(static_cast<TokenId>((i * i + 7 * i) % 40));
    return out;
  }
  std::vector<TextResult> run(std::vector<Network*> networks, Network* original, const EvalOptions& options) {
    auto results = evaluate(networks, original, text(), options, {.threads = threads_, .listener = listener_});
    EXPECT_TRUE(results.has_value()) << (results ? "" : results.error().message);
    return results ? std::move(*results) : std::vector<TextResult>(networks.size());
  }
  ThreadPool threads_{2};
  Listener listener_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend(threads_, best_isa());
  Machine a_{"llama-original-4", *backend_}, b_{"llama-tied-3.25", *backend_};
  bool same_vocabulary_ = a_.model.spec.vocabulary == b_.model.spec.vocabulary;
  const EvalOptions options_{.window = 32, .windows = 3};
};

TEST_F(Divergence, OfAModelFromItselfIsNothing) {
  const TextResult result = run({&a_.network}, &a_.network, options_)[0];
  EXPECT_EQ(result.windows, 3);
  EXPECT_EQ(result.tokens, 3 * 31);
  EXPECT_NEAR(result.kl.mean, 0, 1e-9);
  EXPECT_EQ(result.top1.mean, 1);
  EXPECT_EQ(result.loss.mean, result.loss_original.mean);
  EXPECT_EQ(result.loss_difference.standard_error, 0);
}

TEST_F(Divergence, OnePassOfTheOriginalServesAll) {
  ASSERT_TRUE(same_vocabulary_);
  const std::vector<TextResult> together = run({&a_.network, &b_.network}, &b_.network, options_);
  const TextResult a = run({&a_.network}, &b_.network, options_)[0], b = run({&b_.network}, &b_.network, options_)[0];
  EXPECT_EQ(together[0].positions.kl, a.positions.kl);
  EXPECT_EQ(together[0].positions.kl_float, a.positions.kl_float);
  EXPECT_EQ(together[1].positions.loss, b.positions.loss);
  EXPECT_GT(a.kl.mean, 0.0);
}

TEST_F(Divergence, TheProtocolOfLlamaCppScoresTheSecondHalf) {
  EvalOptions options = options_;
  const TextResult all = run({&a_.network}, nullptr, options)[0];
  options.protocol = Protocol::kSecondHalf;
  const TextResult half = run({&a_.network}, nullptr, options)[0];
  ASSERT_EQ(half.tokens, 3 * 15);
  for (size_t window = 0; window < 3; ++window)
    for (size_t i = 0; i < 15; ++i) EXPECT_EQ(half.positions.loss[window * 15 + i], all.positions.loss[window * 31 + 16 + i]);
}

// Whole windows and few rows at a time differ by the rounding of the activations at most, with float activations not even by that.
TEST_F(Divergence, OfPassesOfFewRowsFromWholeOnesIsThatOfTheirRounding) {
  for (const int64_t rows : {1, 5, 8, 100}) {
    EvalOptions options = options_;
    options.rows = rows;
    const TextResult result = run({&a_.network}, &a_.network, options)[0];
    EXPECT_EQ(result.tokens, 3 * 31);
    EXPECT_LT(result.kl.mean, 1e-3) << rows;
    EXPECT_EQ(rows<32, result.kl.mean> 0) << rows;
  }
}

// On the scalar code; digits of bytes may round a sum by what stands behind it. More rows than 8 at a time take the same products.
TEST_F(Divergence, OfPassesThatMayNotHaveAWholeWindowIsThatOfWholeOnes) {
  const auto backend = make_cpu_backend(threads_, Isa::kGeneric);
  Machine a("llama-original-4", *backend), b("llama-tied-3.25", *backend);
  const auto figures = [&](int64_t most_rows, int64_t rows) {
    EvalOptions options = options_;
    options.most_rows = most_rows, options.rows = rows;
    return run({&a.network}, &b.network, options)[0].positions;
  };
  const Positions whole = figures(EvalOptions().most_rows, 0);
  ASSERT_EQ(whole.loss.size(), 3 * 31U);
  for (const auto& [most_rows, rows] : {std::pair<int64_t, int64_t>{20, 0}, {11, 0}, {11, 100}, {32, 0}}) {
    const Positions capped = figures(most_rows, rows);
    EXPECT_EQ(capped.loss, whole.loss) << most_rows;
    EXPECT_EQ(capped.loss_original, whole.loss_original) << most_rows;
    EXPECT_EQ(capped.kl, whole.kl) << most_rows;
    EXPECT_EQ(capped.kl_float, whole.kl_float) << most_rows;
    EXPECT_EQ(capped.same_top, whole.same_top) << most_rows;
  }
  EXPECT_NE(figures(5, 0).loss, whole.loss) << "these are other products";
}

TEST_F(Divergence, JsonHasTheFieldsOfItsShape) {
  const Json json = text_json(run({&a_.network}, &a_.network, options_)[0]);
  for (const char* key : {"name", "window", "windows", "kl", "ppl", "ppl_original", "top1"}) EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_TRUE(json["kl"].contains("mean") && json["kl"].contains("stderr"));
  EXPECT_TRUE(json["kl_float_activations"].contains("mean"));
  const Json alone = text_json(run({&a_.network}, nullptr, options_)[0]);
  EXPECT_FALSE(alone.contains("kl"));
  EXPECT_TRUE(alone.contains("ppl"));
}

TEST_F(Divergence, GoesOnBehindTheWindowsThatAnInterruptedCallMeasured) {
  const std::vector<TextResult> whole = run({&a_.network, &b_.network}, &b_.network, options_);
  struct Stopping : Listener {
    void progress(std::string_view, int64_t done, int64_t) override { stop = done == 2, ++calls; }
    std::atomic<bool> stop = false;
    int calls = 0;
  } stopping;
  const std::vector<Network*> both{&a_.network, &b_.network};
  std::vector<Positions> done(2);
  const Context context{.threads = threads_, .listener = stopping, .stop = &stopping.stop};
  const auto stopped = evaluate(both, &b_.network, text(), options_, context, &done);
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().code, ErrorCode::kInterrupted);
  ASSERT_EQ(done[0].loss.size(), 2 * 31U);
  done[1].loss.resize(31), done[1].kl.resize(31);  // one that has less
  stopping.stop = false, stopping.calls = 0;
  const auto rest = evaluate(both, &b_.network, text(), options_, context, &done);
  ASSERT_TRUE(rest.has_value() || stopping.stop);
  EXPECT_EQ(stopping.calls, 1) << "stopped again behind the second of three windows";
  stopping.stop = false, stopping.calls = 0;
  const auto last = evaluate(both, &b_.network, text(), options_, context, &done);
  ASSERT_TRUE(last.has_value());
  EXPECT_EQ(stopping.calls, 1);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ((*last)[i].positions.kl, whole[i].positions.kl);
    EXPECT_EQ((*last)[i].positions.kl_float, whole[i].positions.kl_float);
    EXPECT_EQ((*last)[i].loss.standard_error, whole[i].loss.standard_error);
  }
}

TEST_F(Divergence, OfOneWindowHasNoStandardError) {
  EvalOptions options = options_;
  options.windows = 1;
  const TextResult result = run({&b_.network}, &a_.network, options)[0];
  const Json json = Json::parse(text_json(result).dump());
  for (const char* key : {"ppl_stderr", "ppl_original_stderr", "ppl_ratio_stderr", "top1_stderr"}) EXPECT_TRUE(json[key].is_null()) << key;
  EXPECT_TRUE(json["kl"]["stderr"].is_null());
  EXPECT_GT(json["kl"]["mean"].get<double>(), 0);
  EXPECT_THAT(text_lines(result), testing::AllOf(testing::HasSubstr("1 window of 32, 31 tokens"), testing::HasSubstr("± -")));
  EXPECT_THAT(text_lines(result), testing::Not(testing::HasSubstr("nan")));
}

// A window of one row after another takes seconds; it ends long before it is done, and leaves no part of a window.
TEST_F(Divergence, StopsWithinAWindow) {
  std::atomic<bool> stop = false;
  std::vector<Positions> done(1);
  const EvalOptions options{.window = 8192, .windows = 1, .rows = 1};
  EvalText long_text{"long", std::vector<TokenId>(8192, 1)};
  const std::jthread soon([&stop] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    stop = true;
  });
  const auto stopped = evaluate(std::vector<Network*>{&a_.network}, nullptr, long_text, options,
                                {.threads = threads_, .listener = listener_, .stop = &stop}, &done);
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().code, ErrorCode::kInterrupted);
  EXPECT_TRUE(done[0].loss.empty());
}

TEST_F(Divergence, ATextShorterThanAWindowIsRefused) {
  Network* networks[] = {&a_.network};
  const auto result = evaluate(networks, nullptr, text(31), options_, {.threads = threads_, .listener = listener_});
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, ErrorCode::kBadInput);
  EXPECT_THAT(result.error().message, HasSubstr("--window"));
}

// What a window may need is there before the first one.
TEST_F(Divergence, ThatADeviceHasNoMemoryForIsRefused) {
  LimitedBackend device(make_cpu_backend(threads_, best_isa()));
  Machine machine("llama-original-4", device);
  const uint64_t before = device.used();
  UsedMemory watching(device);
  const auto measured = [&](Network& network, int64_t rows) {
    Network* networks[] = {&network};
    EvalOptions options = options_;
    options.rows = rows;
    return evaluate(networks, &network, text(), options, {.threads = threads_, .listener = watching});
  };
  for (const int64_t rows : {0, 5}) {
    {
      Network again = Network::create(machine.model, device).value();
      ASSERT_TRUE(measured(again, rows));
    }
    ASSERT_EQ(device.used(), before);
    const uint64_t needed = watching.used - 2 * before;
    Network network = Network::create(machine.model, device).value();
    const uint64_t loaded = device.used();
    for (const uint64_t part : {0, 1, 30, 60, 90, 99}) {
      device.set_limit(loaded + needed * part / 100);
      const auto refused = measured(network, rows);
      ASSERT_FALSE(refused) << part;
      EXPECT_EQ(refused.error().code, ErrorCode::kNoResource);
    }
    device.set_limit(loaded + needed);
    EXPECT_TRUE(measured(network, rows));
    device.set_limit(UINT64_MAX);
  }
}

TEST(TaskJson, HasThePairedDifferenceAndTheMarkOfChance) {
  const TaskResult original{"t", "how", {"1", "2", "3", "4"}, {"g", "g", "h", "h"}, {{"acc", {1, 1, 1, 1}, 0.5, true}}};
  TaskResult result = original;
  result.metrics[0].values = {1, 0, 1, 0};
  const Json json = task_json(result, &original);
  const Json& metric = json["metrics"][0];
  EXPECT_EQ(metric["mean"], 0.5);
  EXPECT_EQ(metric["near_chance"], true);
  EXPECT_EQ(metric["original_near_chance"], false);
  EXPECT_EQ(metric["difference"]["lost"], 2);
  EXPECT_EQ(metric["difference"]["gained"], 0);
  EXPECT_EQ(json["groups"].size(), 2u);
  EXPECT_THAT(task_lines(result, &original), HasSubstr("no claim can rest on it"));
}

}  // namespace
}  // namespace tq
