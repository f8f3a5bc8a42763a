#include "run/engine.h"

#include <gtest/gtest.h>

#include <thread>

#include "artifact/reader.h"
#include "kernels/cpu/cpu_backend.h"

namespace tq {
namespace {

// Everything that an engine stands on, with threads of its own.
struct Machine {
  Model model;
  ThreadPool threads;
  std::unique_ptr<Backend> backend;
  Network network;
  Engine engine;

  static Model read(const std::string& name) { return read_artifact(TQ_TEST_DATA "/artifact/format-1/" + name).value(); }
  explicit Machine(const std::string& name, int thread_count = 2, Precision precision = Precision::kInt8)
      : model(read(name)),
        threads(thread_count),
        backend(make_cpu_backend(threads, best_isa())),
        network(Network::create(model, *backend).value()),
        engine(Engine::create(network, model.tokenizer.get(), {.page_tokens = 2, .precision = precision}).value()) {}

  Request request(const std::string& text) const {
    Request out;
    out.prompt = model.tokenizer->encode(text, false, true);
    out.sampler.temperature = 1.0f;
    out.max_tokens = 12;
    out.ignore_end_of_turn = true;
    return out;
  }
};

struct Answer {
  std::vector<TokenId> tokens;
  std::string text;
  Finish finish = Finish::kCancelled;
  uint64_t hash = 0;
  bool operator==(const Answer&) const = default;
};

// One step; true until the request's last event.
bool advance(Engine& engine, int64_t id, Answer& answer) {
  for (const Event& event : engine.step()) {
    if (event.id != id) continue;
    answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
    answer.text += event.text;
    if (event.finish) answer.finish = *event.finish;
  }
  answer.hash = engine.stats(id).logits_hash;
  return !engine.idle();
}

Answer answer(Machine& machine, Request request) {
  const int64_t id = machine.engine.submit(std::move(request)).value();
  Answer out;
  while (advance(machine.engine, id, out)) {
  }
  return out;
}

TEST(EngineTest, TwoInOneProcessDoNotDisturbEachOther) {
  Machine alone_a("llama-original-4"), alone_b("qwen3-5.5");
  const Answer a = answer(alone_a, alone_a.request("Hello")), b = answer(alone_b, alone_b.request("Hello"));
  ASSERT_EQ(a.tokens.size(), 12u);
  ASSERT_NE(a.hash, b.hash);

  Machine first("llama-original-4"), second("qwen3-5.5");
  const int64_t id_a = first.engine.submit(first.request("Hello")).value(), id_b = second.engine.submit(second.request("Hello")).value();
  Answer stepped_a, stepped_b;
  bool more_a = true, more_b = true;
  while (more_a || more_b) {
    if (more_a) more_a = advance(first.engine, id_a, stepped_a);
    if (more_b) more_b = advance(second.engine, id_b, stepped_b);
  }
  EXPECT_EQ(stepped_a, a);
  EXPECT_EQ(stepped_b, b);
}

TEST(EngineTest, TwoOnThreadsOfTheirOwnAnswerAsAlone) {
  Machine alone("llama-original-4");
  const Answer expected = answer(alone, alone.request("Hello"));
  Answer got[2];
  {
    std::jthread threads[2];
    for (int i = 0; i < 2; ++i)
      threads[i] = std::jthread([&got, i] {
        Machine machine("llama-original-4");
        got[i] = answer(machine, machine.request("Hello"));
      });
  }
  EXPECT_EQ(got[0], expected);
  EXPECT_EQ(got[1], expected);
}

TEST(EngineTest, AnswersDoNotDependOnThreads) {
  Machine one("llama-untied-2.5", 1), three("llama-untied-2.5", 3);
  EXPECT_EQ(answer(one, one.request("Hello")), answer(three, three.request("Hello")));
}

// In float: with rounded activations a few tokens and many take different kernels.
TEST(EngineTest, AReusedCacheChangesNothing) {
  Machine fresh("llama-original-4", 2, Precision::kFloat), used("llama-original-4", 2, Precision::kFloat);
  answer(used, used.request("Hello you"));
  const int64_t id = used.engine.submit(used.request("Hello me")).value();
  Answer again;
  while (advance(used.engine, id, again)) {
  }
  EXPECT_GT(used.engine.stats(id).reused_tokens, 0);
  EXPECT_EQ(again.tokens, answer(fresh, fresh.request("Hello me")).tokens);
}

TEST(EngineTest, ACancelledRequestEndsAndTheNextOneRuns) {
  Machine machine("llama-original-4");
  const int64_t first = machine.engine.submit(machine.request("Hello")).value();
  const int64_t second = machine.engine.submit(machine.request("World")).value();
  machine.engine.cancel(first);
  Answer out;
  while (advance(machine.engine, second, out)) {
  }
  EXPECT_EQ(out.finish, Finish::kLength);
  EXPECT_EQ(out.tokens.size(), 12u);
}

TEST(EngineTest, AnswersEndWhereTheRequestSays) {
  Machine machine("llama-original-4");
  const Answer whole = answer(machine, machine.request("Hello"));
  ASSERT_EQ(whole.tokens.size(), 12u);
  Request ended = machine.request("Hello");
  ended.ignore_end_of_turn = false;
  ended.end_of_turn = {whole.tokens[5]};
  const Answer shorter = answer(machine, ended);
  EXPECT_EQ(shorter.finish, Finish::kEndOfTurn);
  EXPECT_LE(shorter.tokens.size(), 6u);
  EXPECT_TRUE(std::equal(shorter.tokens.begin(), shorter.tokens.end(), whole.tokens.begin()));
  Request none = machine.request("Hello");
  none.max_tokens = 0;
  EXPECT_EQ(answer(machine, none).tokens.size(), 0u);
  Request endless = machine.request("Hello");
  endless.max_tokens = -1;
  const Answer full = answer(machine, endless);
  EXPECT_EQ(full.finish, Finish::kContext);
  EXPECT_EQ(static_cast<int64_t>(full.tokens.size() + endless.prompt.size()), machine.engine.context());
}

TEST(EngineTest, TheContextIsTheModelsOwnUnlessAnotherIsAskedFor) {
  Machine machine("llama-original-4");
  EXPECT_EQ(machine.engine.context(), machine.model.spec.context);
  EXPECT_EQ(Engine::create(machine.network, machine.model.tokenizer.get(), {.context = 20})->context(), 20);
}

TEST(EngineTest, RequestsThatMakeNoSenseAreRefused) {
  Machine machine("llama-original-4");
  EXPECT_EQ(machine.engine.submit({}).error().code, ErrorCode::kUsage);
  Request request = machine.request("Hello");
  request.prompt.push_back(1 << 20);
  EXPECT_EQ(machine.engine.submit(request).error().code, ErrorCode::kUsage);
  request.prompt.assign(static_cast<size_t>(machine.engine.context()) + 1, 1);
  EXPECT_EQ(machine.engine.submit(request).error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace tq
