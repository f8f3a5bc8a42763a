// Scoring on tiny models, against logits of a plain forward pass.
#include "eval/tasks/run.h"

#include <cmath>
#include <mutex>

#include <gmock/gmock.h>

#include "artifact/reader.h"
#include "eval/tasks/likelihood.h"
#include "kernels/cpu/cpu_backend.h"
#include "run/limited_backend.h"

namespace tq {
namespace {

using testing::ElementsAre;

struct Machine {
  Model model = read_artifact(TQ_TEST_DATA "/artifact/format-1/llama-original-4").value();
  ThreadPool threads{2};
  Listener listener;
  std::unique_ptr<Backend> backend = make_cpu_backend(threads, best_isa());
  Network network = Network::create(model, *backend).value();
  Context context() { return {.threads = threads, .listener = listener}; }
  const Tokenizer& tokenizer() const { return *model.tokenizer; }
};

// log p(continuation | context) from one pass over both.
Likelihood plain_likelihood(Machine& machine, std::vector<TokenId> context, const std::vector<TokenId>& continuation) {
  const ModelSpec& spec = machine.model.spec;
  std::vector<TokenId> all = context;
  all.insert(all.end(), continuation.begin(), continuation.end());
  KvCache cache = KvCache::create(*machine.backend, spec, KvType::kF16, static_cast<int64_t>(all.size())).value();
  const float* hidden = machine.network.forward({.tokens = all, .cache = &cache});
  std::vector<float> logits(all.size() * static_cast<size_t>(spec.vocabulary));
  machine.network.head(hidden, static_cast<int64_t>(all.size()), logits.data());
  Likelihood out;
  for (size_t i = context.size(); i < all.size(); ++i) {
    const float* row = logits.data() + (i - 1) * static_cast<size_t>(spec.vocabulary);
    double sum = 0;
    for (int64_t v = 0; v < spec.vocabulary; ++v) sum += std::exp(static_cast<double>(row[v]));
    out.log_likelihood += row[all[i]] - std::log(sum);
    out.is_greedy &= std::max_element(row, row + spec.vocabulary) - row == all[i];
    ++out.tokens;
  }
  return out;
}

TEST(LikelihoodScorer, GivesThoseOfAPlainPassWhateverCameBefore) {
  Machine machine;
  LikelihoodScorer scorer = LikelihoodScorer::create(machine.network, 64).value();
  const std::vector<std::vector<TokenId>> continuations = {{9}, {4, 5, 6}, {9, 8}, {}};
  for (const std::vector<TokenId>& context :
       {std::vector<TokenId>{1, 2, 3, 4}, {1, 2, 3, 5, 6}, std::vector<TokenId>{1, 2}, {7}, {1, 2, 3, 5, 6}}) {
    const std::vector<Likelihood> scores = scorer.score(context, continuations);
    ASSERT_EQ(scores.size(), continuations.size());
    for (size_t i = 0; i < continuations.size(); ++i) {
      const Likelihood plain = plain_likelihood(machine, context, continuations[i]);
      EXPECT_NEAR(scores[i].log_likelihood, plain.log_likelihood, 1e-3);
      EXPECT_EQ(scores[i].tokens, plain.tokens);
      EXPECT_EQ(scores[i].is_greedy, plain.is_greedy);
    }
  }
}

TEST(LikelihoodScorer, ALongContextLosesItsBeginning) {
  Machine machine;
  LikelihoodScorer scorer = LikelihoodScorer::create(machine.network, 6).value();  // 6 positions: 7 tokens, the last one predicted
  const std::vector<std::vector<TokenId>> continuations = {{9, 8}};
  const double cut = scorer.score(std::vector<TokenId>{1, 2, 3, 4, 5, 6, 7}, continuations)[0].log_likelihood;
  EXPECT_NEAR(cut, plain_likelihood(machine, {3, 4, 5, 6, 7}, {9, 8}).log_likelihood, 1e-3);
}

TEST(LikelihoodScorer, HasItsMemoryBeforeTheFirstPairOrIsRefused) {
  Machine machine;
  LimitedBackend device(make_cpu_backend(machine.threads, best_isa()));
  Network network = Network::create(machine.model, device).value();
  const uint64_t before = device.used();
  device.set_limit(before + 1000);
  const auto refused = LikelihoodScorer::create(network, 64);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNoResource);
  device.set_limit(UINT64_MAX);
  LikelihoodScorer scorer = LikelihoodScorer::create(network, 64).value();
  const uint64_t used = device.used();
  device.set_limit(used);
  scorer.score(std::vector<TokenId>(60, 3), std::vector<std::vector<TokenId>>{{9}, {4, 5, 6, 7}});
  EXPECT_EQ(device.used(), used);
}

TEST(EncodePair, SpacesAtTheEndOfTheContextBelongToTheContinuation) {
  Machine machine;
  const TokenPair one = encode_pair(machine.tokenizer(), "Hello ", "you"), other = encode_pair(machine.tokenizer(), "Hello", " you");
  EXPECT_EQ(one.context, other.context);
  EXPECT_EQ(one.continuation, other.continuation);
  EXPECT_EQ(machine.tokenizer().decode(one.continuation, false), " you");
  EXPECT_FALSE(encode_pair(machine.tokenizer(), "", "you").context.empty());
}

TEST(RunTask, ChoosesByLogLikelihoodAndByLogLikelihoodAByte) {
  Machine machine;
  Task task{.name = "t", .kind = TaskKind::kChoice, .by_bytes = true};
  task.items = {{.id = "1", .context = "The sun", .choices = {" a", " bcdefgh"}, .gold = 0},
                {.id = "2", .context = "The moon", .choices = {" xyz", " q", " pp"}, .gold = 2}};
  const auto result = run_task(machine.network, task, {}, machine.context());
  ASSERT_TRUE(result.has_value()) << result.error().message;
  const auto best = [](const std::vector<double>& v) { return static_cast<size_t>(std::max_element(v.begin(), v.end()) - v.begin()); };
  std::vector<double> plain, by_bytes;
  for (const Item& item : task.items) {
    std::vector<double> scores, normal;
    for (const std::string& choice : item.choices) {
      const TokenPair pair = encode_pair(machine.tokenizer(), item.context, choice);
      scores.push_back(plain_likelihood(machine, pair.context, pair.continuation).log_likelihood);
      normal.push_back(scores.back() / static_cast<double>(choice.size() - 1));
    }
    plain.push_back(best(scores) == item.gold), by_bytes.push_back(best(normal) == item.gold);
  }
  ASSERT_EQ(result->metrics.size(), 2u);
  EXPECT_EQ(result->metrics[0].values, plain);
  EXPECT_EQ(result->metrics[1].values, by_bytes);
  EXPECT_DOUBLE_EQ(*result->metrics[0].chance, (1.0 / 2 + 1.0 / 3) / 2);
}

TEST(RunTask, ScoresOneContinuationAfterEachContext) {
  Machine machine;
  Task task{.name = "t", .kind = TaskKind::kChoice};
  task.items = {{.id = "1", .choices = {" end"}, .contexts = {"One thing", "Another thing"}, .gold = 1}};
  const auto result = run_task(machine.network, task, {}, machine.context());
  ASSERT_TRUE(result.has_value()) << result.error().message;
  double scores[2];
  for (size_t i = 0; i < 2; ++i) {
    const TokenPair pair = encode_pair(machine.tokenizer(), task.items[0].contexts[i], " end");
    scores[i] = plain_likelihood(machine, pair.context, pair.continuation).log_likelihood;
  }
  EXPECT_EQ(result->metrics[0].values[0], scores[1] > scores[0] ? 1.0 : 0.0);
}

TEST(RunTask, GeneratedTextGoesToTheCheckerAsOftenAsSamplesAreWanted) {
  Machine machine;
  std::mutex mutex;
  std::vector<std::string> seen;  // in any order
  Task task{.name = "t", .kind = TaskKind::kGeneration, .metric = "half", .max_tokens = 4};
  task.items = {{.id = "1", .context = "Hello"}};
  task.check = [&](const Item&, const std::string& text) -> Result<double> {
    const std::lock_guard lock(mutex);
    seen.push_back(text);
    return seen.size() % 2 == 0 ? 1.0 : 0.0;
  };
  const auto result = run_task(machine.network, task, {.samples = 4, .temperature = 1.0f}, machine.context());
  ASSERT_TRUE(result.has_value()) << result.error().message;
  EXPECT_EQ(seen.size(), 4u);
  EXPECT_THAT(result->metrics[0].values, ElementsAre(0.5));
  EXPECT_EQ(result->metrics[0].chance, std::nullopt);
  EXPECT_EQ(run_task(machine.network, task, {.samples = 2}, machine.context()).error().code, ErrorCode::kUsage);
}

struct Warned : Listener {
  void warn(std::string_view text) override { message += text; }
  std::string message;
};

TEST(RunTask, LeavesHalfOfAShortContextToThePromptAndSaysSo) {
  Warned warned;
  Machine machine;
  const int64_t context = machine.model.spec.context = 32;
  Task task{.name = "stories", .kind = TaskKind::kGeneration, .metric = "m", .max_tokens = 31};
  const std::string text = "a b c d e";  // a prompt that fits beside the shorter answer
  ASSERT_LE(static_cast<int64_t>(machine.tokenizer().encode(text, true, true).size()), context / 2);
  task.items = {{.id = "1", .context = text}};
  std::string answer;
  task.check = [&](const Item&, const std::string& given) -> Result<double> { return answer = given, 0.0; };
  const auto run = [&] { return run_task(machine.network, task, {}, {.threads = machine.threads, .listener = warned}); };
  ASSERT_TRUE(run().has_value());
  EXPECT_THAT(warned.message, testing::AllOf(testing::StartsWith("stories: answers end after 16 tokens instead of 31"),
                                             testing::Not(testing::HasSubstr("lost"))));
  const std::string shorter = std::exchange(answer, "");
  warned.message.clear();
  task.max_tokens = 16;
  ASSERT_TRUE(run().has_value());
  EXPECT_EQ(warned.message, "");
  EXPECT_EQ(answer, shorter);
  for (int i = 0; i < 5; ++i) task.items[0].context += text;
  ASSERT_TRUE(run().has_value());
  EXPECT_THAT(warned.message, testing::StartsWith("stories: 1 prompt lost the beginning"));
}

TEST(RunTask, SaysWhereProgramsHaveANetwork) {
  Warned warned;
  Machine machine;
  Task task{.name = "programs", .kind = TaskKind::kGeneration, .metric = "pass@1", .max_tokens = 1};
  task.items = {{.id = "1", .context = "Hello"}};
  task.check = [](const Item&, const std::string&) -> Result<double> { return 0.0; };
  const auto run = [&] { return run_task(machine.network, task, {}, {.threads = machine.threads, .listener = warned}); };
  ASSERT_TRUE(run().has_value());
  EXPECT_EQ(warned.message, "") << "it runs no programs";
  task.is_isolated = [] { return true; };
  ASSERT_TRUE(run().has_value());
  EXPECT_EQ(warned.message, "");
  task.is_isolated = [] { return false; };
  ASSERT_TRUE(run().has_value());
  EXPECT_THAT(warned.message, testing::AllOf(testing::StartsWith("programs: "), testing::HasSubstr("have a network")));
  task.is_isolated = []() -> Result<bool> { return fail(ErrorCode::kFailed, "no python3"); };
  EXPECT_EQ(run().error().message, "no python3");
}

TEST(ChosenItems, AreASeededSubsetInOrder) {
  EXPECT_THAT(chosen_items(3, 0, 1), ElementsAre(0, 1, 2));
  EXPECT_THAT(chosen_items(3, 9, 1), ElementsAre(0, 1, 2));
  const std::vector<size_t> some = chosen_items(1000, 10, 1);
  EXPECT_EQ(some.size(), 10u);
  EXPECT_TRUE(std::is_sorted(some.begin(), some.end()));
  EXPECT_EQ(some, chosen_items(1000, 10, 1));
  EXPECT_NE(some, chosen_items(1000, 10, 2));
}

TEST(PairedDifference, CountsFlipsAndHasTheIntervalOfTheDifferences) {
  const Metric original{"acc", {1, 1, 0, 0}, 0.25, true}, metric{"acc", {1, 0, 1, 1}, 0.25, true};
  const PairedDifference paired = paired_difference(metric, original);
  EXPECT_EQ(paired.gained, 2);
  EXPECT_EQ(paired.lost, 1);
  EXPECT_DOUBLE_EQ(paired.difference.mean, 0.25);
  // Differences 0, -1, 1, 1: the squares of their distances from the mean add up to 2.75, over three degrees of freedom.
  const double error = std::sqrt(2.75 / 3 / 4);
  EXPECT_DOUBLE_EQ(paired.difference.standard_error, error);
  EXPECT_DOUBLE_EQ(paired.low, 0.25 - 1.96 * error);
  EXPECT_DOUBLE_EQ(paired.high, 0.25 + 1.96 * error);
}

TEST(PairedDifference, OfOneItemHasNoInterval) {
  const Metric original{"acc", {0}, 0.25, true}, metric{"acc", {1}, 0.25, true};
  const PairedDifference paired = paired_difference(metric, original);
  EXPECT_EQ(paired.difference.mean, 1);
  EXPECT_TRUE(std::isnan(paired.difference.standard_error) && std::isnan(paired.low));
  EXPECT_EQ(interval_text(paired, 100, 1), "-");
  EXPECT_EQ(interval_text({.difference = {}, .low = -0.01, .high = 0.02}, 100, 1), "-1.0 to +2.0");
}

TEST(Metric, IsNearChanceWithinTwoStandardErrors) {
  std::vector<double> values(100, 0.0);
  for (size_t i = 0; i < 33; ++i) values[i] = 1;  // 0.33 with a standard error of 0.047
  EXPECT_TRUE((Metric{"acc", values, 0.25, true}).is_near_chance());
  for (size_t i = 33; i < 36; ++i) values[i] = 1;
  EXPECT_FALSE((Metric{"acc", values, 0.25, true}).is_near_chance());
  EXPECT_FALSE((Metric{"loss", values, std::nullopt, false}).is_near_chance());
  EXPECT_TRUE((Metric{"acc", {1}, 0.25, true}).is_near_chance()) << "one item says nothing";
}

}  // namespace
}  // namespace tq
