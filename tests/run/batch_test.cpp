// Many requests in one engine: each is answered as alone, whatever else is going on.
#include <gtest/gtest.h>

#include <set>

#include "artifact/reader.h"
#include "base/rng.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "run/engine.h"

namespace tq {
namespace {

struct Answer {
  std::vector<TokenId> tokens;
  std::string text;
  std::optional<Finish> finish;
};

struct Case {
  std::string backend, model;
  int64_t window;         // of every second layer, the first included; 0: all positions
  bool is_float = false;  // instead of kInvariant
  friend void PrintTo(const Case& each, std::ostream* out) { *out << each.backend << " " << each.model; }
};

// With the same bits in every company, on a device also in float, which one token and many do not differ in by more than rounding.
class EngineBatch : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    model_ = read_artifact(TQ_TEST_DATA "/artifact/format-1/" + GetParam().model).value();
    for (size_t i = 0; i < model_.spec.layers.size(); i += 2)
      for (Block& block : model_.spec.layers[i])
        if (auto* attention = std::get_if<Attention>(&block.op)) attention->window = GetParam().window;
    if (GetParam().backend == "cuda") {
      auto cuda = make_cuda_backend(threads_);
      if (!cuda) GTEST_SKIP() << cuda.error().message;
      backend_ = std::move(*cuda);
    } else {
      backend_ = make_cpu_backend(threads_, best_isa());
    }
    if (GetParam().is_float) precision_ = Precision::kFloat;
    network_.emplace(Network::create(model_, *backend_).value());
  }

  Engine engine(EngineOptions options = {}) {
    options.precision = precision_;
    return Engine::create(*network_, model_.tokenizer.get(), options).value();
  }
  // As many pages as hold `tokens`.
  EngineOptions small(int64_t tokens) const {
    return {.kv_bytes = kv_page_bytes(model_.spec, KvType::kF16, 4) * static_cast<uint64_t>(tokens / 4),
            .page_tokens = 4,
            .max_sequences = 8,
            .prefill_chunk = 7};
  }
  EngineOptions roomy() const {
    return {.kv_bytes = kv_page_bytes(model_.spec, KvType::kF16, 8) * 100, .page_tokens = 8, .prefill_chunk = 20};
  }
  // length: of the prompt; greedy for even seeds.
  Request request(int64_t length, uint64_t seed, int64_t max_tokens = 12) const {
    Request out{.max_tokens = max_tokens, .ignore_end_of_turn = true};
    Rng rng(seed);
    for (int64_t i = 0; i < length; ++i)
      out.prompt.push_back(static_cast<TokenId>(rng.below(static_cast<uint64_t>(model_.spec.vocabulary))));
    out.sampler = {.temperature = seed % 2 ? 1.0f : 0.0f, .seed = seed};
    return out;
  }
  // What `tq run` answers.
  std::vector<TokenId> alone(const Request& request, uint64_t* logits_hash = nullptr) {
    Engine own = engine();
    const int64_t id = own.submit(request).value();
    const std::vector<TokenId> tokens = finish(own)[id].tokens;
    if (logits_hash) *logits_hash = own.stats(id).logits_hash;
    return tokens;
  }

  static void note(const std::vector<Event>& events, std::map<int64_t, Answer>& answers) {
    for (const Event& event : events) {
      Answer& answer = answers[event.id];
      EXPECT_FALSE(answer.finish) << "an event behind the last one";
      answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
      answer.text += event.text;
      if (event.finish) answer.finish = event.finish;
    }
  }
  static std::map<int64_t, Answer> finish(Engine& engine, std::map<int64_t, Answer> answers = {}) {
    for (int steps = 0; !engine.idle(); ++steps) {
      note(engine.step(), answers);
      if (steps > 10000) {
        ADD_FAILURE() << "no end";
        break;
      }
    }
    EXPECT_EQ(engine.pages().in_use, 0);
    return answers;
  }

  Model model_;
  ThreadPool threads_{2};
  std::unique_ptr<Backend> backend_;
  std::optional<Network> network_;
  Precision precision_ = Precision::kInvariant;
};

TEST_P(EngineBatch, RequestsOfDifferentLengthsAreAnsweredAsAlone) {
  for (const bool is_tight : {false, true}) {
    Engine together = engine(is_tight ? small(60) : roomy());
    std::map<int64_t, std::vector<TokenId>> expected;
    std::map<int64_t, uint64_t> logits;
    std::map<int64_t, Answer> answers;
    uint64_t seed = 0;
    int64_t preemptions = 0;
    for (const int64_t length : {5, 1, 40, 17, 8, 23, 2, 33}) {
      const Request each = request(length, ++seed);
      const int64_t id = together.submit(each).value();
      expected[id] = alone(each, &logits[id]);
      note(together.step(), answers);
    }
    answers = finish(together, std::move(answers));
    for (const auto& [id, tokens] : expected) {
      EXPECT_EQ(answers[id].tokens, tokens) << id;
      if (precision_ == Precision::kInvariant) {
        EXPECT_EQ(together.stats(id).logits_hash, logits[id]) << id;
      }
      EXPECT_EQ(answers[id].finish, Finish::kLength);
      preemptions += together.stats(id).preemptions;
    }
    EXPECT_EQ(preemptions > 0, is_tight);
  }
}

TEST_P(EngineBatch, EqualBeginningsAreComputedOnce) {
  Engine shared = engine({.page_tokens = 4});
  const Request first = request(26, 3);
  Request second = first;
  second.prompt.resize(22);
  second.prompt.push_back((second.prompt[0] + 1) % 100);
  const int64_t a = shared.submit(first).value();
  std::map<int64_t, Answer> answers;
  note(shared.step(), answers);
  const int64_t before = shared.pages().in_use;
  const int64_t b = shared.submit(second).value();
  note(shared.step(), answers);
  EXPECT_EQ(shared.stats(b).reused_tokens, 22);  // five pages, and two tokens of another that were copied
  EXPECT_LE(shared.pages().in_use, before + 2);
  const int64_t c = shared.submit(first).value();
  answers = finish(shared, std::move(answers));
  EXPECT_EQ(shared.stats(c).reused_tokens, 24);
  EXPECT_EQ(answers[a].tokens, alone(first));
  EXPECT_EQ(answers[b].tokens, alone(second));
  EXPECT_EQ(answers[c].tokens, answers[a].tokens);
  // What an answer wrote is there for the next turn.
  Request turn = first;
  turn.prompt.insert(turn.prompt.end(), answers[a].tokens.begin(), answers[a].tokens.end());
  turn.prompt.push_back(7);
  const int64_t d = shared.submit(turn).value();
  EXPECT_EQ(finish(shared)[d].tokens, alone(turn));
  EXPECT_EQ(shared.stats(d).reused_tokens, 37);
}

TEST_P(EngineBatch, ACancelledRequestFreesItsPagesAndDisturbsNobody) {
  Engine many = engine({.page_tokens = 4, .prefill_chunk = 10});
  std::vector<int64_t> ids;
  for (uint64_t i = 0; i < 4; ++i) ids.push_back(many.submit(request(12, 10 + i)).value());
  std::map<int64_t, Answer> answers;
  for (int i = 0; i < 3; ++i) note(many.step(), answers);
  const int64_t before = many.pages().in_use;
  many.cancel(ids[0]);
  many.cancel(ids[3]);
  many.cancel(ids[3]);
  many.cancel(12345);
  EXPECT_LT(many.pages().in_use, before);
  answers = finish(many, std::move(answers));
  EXPECT_EQ(answers[ids[0]].finish, Finish::kCancelled);
  EXPECT_EQ(answers[ids[3]].finish, Finish::kCancelled);
  for (const size_t i : {1, 2}) EXPECT_EQ(answers[ids[i]].tokens, alone(request(12, 10 + i)));
}

TEST_P(EngineBatch, ARequestThatCannotFitIsRefusedAlone) {
  Engine tight = engine(small(32));
  EXPECT_EQ(tight.context(), 32);
  const int64_t id = tight.submit(request(20, 4)).value();
  const auto refused = tight.submit(request(32, 5));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "the prompt has 32 tokens, the memory for keys and values holds 32: shorten it or give more memory");
  const int64_t endless = tight.submit(request(9, 6, -1)).value();
  auto answers = finish(tight);
  EXPECT_EQ(answers[id].tokens, alone(request(20, 4)));
  EXPECT_EQ(answers[endless].finish, Finish::kContext);
  EXPECT_EQ(answers[endless].tokens.size(), 23u);
}

TEST_P(EngineBatch, WaitsInOrderWhenThereAreMoreRequestsThanPlaces) {
  Engine few = engine({.page_tokens = 4, .max_sequences = 2});
  std::vector<int64_t> ids, order;
  for (uint64_t i = 0; i < 5; ++i) ids.push_back(few.submit(request(3, 20 + i, 4)).value());
  while (!few.idle())
    for (const Event& event : few.step())
      if (event.finish) order.push_back(event.id);
  EXPECT_EQ(order, ids);
}

// Requests come and go at random; every one has one last event, no page is lost, and the answers are those of each alone.
TEST_P(EngineBatch, AnyScheduleKeepsItsPromises) {
  Rng rng(99);
  Engine busy = engine(small(72));
  std::map<int64_t, Request> requests;
  std::map<int64_t, Answer> answers;
  std::set<int64_t> cancelled;
  for (int step = 0; step < 120; ++step) {
    if (rng.below(3) == 0) {
      // Some begin alike.
      Request next = request(1 + static_cast<int64_t>(rng.below(45)), rng.below(3), static_cast<int64_t>(rng.below(12)));
      next.sampler = {.temperature = 1.0f, .seed = rng.bits()};
      const int64_t id = busy.submit(next).value();
      requests[id] = next;
    }
    if (rng.below(12) == 0 && !requests.empty()) {
      const auto id = static_cast<int64_t>(1 + rng.below(requests.size()));
      if (!answers[id].finish) cancelled.insert(id);
      busy.cancel(id);
    }
    note(busy.step(), answers);
    EXPECT_LE(busy.pages().in_use, busy.pages().all);
  }
  answers = finish(busy, std::move(answers));
  EXPECT_GT(requests.size(), 20u);
  EXPECT_GT(cancelled.size(), 1u);
  for (const auto& [id, each] : requests) {
    Answer& answer = answers[id];
    ASSERT_TRUE(answer.finish) << id;
    EXPECT_EQ(*answer.finish == Finish::kCancelled, cancelled.contains(id)) << id;
    std::vector<TokenId> expected = alone(each);
    if (cancelled.contains(id)) expected.resize(std::min(expected.size(), answer.tokens.size()));
    EXPECT_EQ(answer.tokens, expected) << id;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineBatch,
                         testing::Values(Case{"cpu", "llama-original-4", 0}, Case{"cpu", "gemma3-2", 10}, Case{"cpu", "qwen3-5.5", 9},
                                         Case{"cpu", "mixture-random-bits", 0}, Case{"cpu", "llama-awq-4", 0},
                                         Case{"cpu", "llama-quip-4", 5}, Case{"cuda", "llama-original-4", 0}, Case{"cuda", "gemma3-2", 10},
                                         Case{"cuda", "qwen3-5.5", 9}, Case{"cuda", "mixture-random-bits", 0},
                                         Case{"cuda", "llama-awq-4", 0}, Case{"cuda", "llama-original-4", 0, true},
                                         Case{"cuda", "gemma3-2", 10, true}, Case{"cuda", "qwen3-5.5", 9, true}),
                         [](const auto& info) {
                           std::string name = info.param.backend + (info.param.is_float ? "_float_" : "_") + info.param.model;
                           for (char& c : name)
                             if (!isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

// The same tokens on any number of threads: with int8 activations too, for the same requests at the same steps.
TEST(EngineBatchThreads, AnswersOfABatchDoNotDependOnThreads) {
  const Model model = read_artifact(TQ_TEST_DATA "/artifact/format-1/qwen3-5.5").value();
  const auto run = [&](int count) {
    ThreadPool threads(count);
    const auto backend = make_cpu_backend(threads, best_isa());
    Network network = Network::create(model, *backend).value();
    Engine engine = Engine::create(network, model.tokenizer.get(), {.page_tokens = 8, .prefill_chunk = 20}).value();
    for (TokenId i = 0; i < 6; ++i) {
      Request request{.prompt = std::vector<TokenId>(static_cast<size_t>(3 + 5 * i), 40 + i), .max_tokens = 10};
      request.sampler.seed = static_cast<uint64_t>(i);
      EXPECT_TRUE(engine.submit(request));
    }
    std::vector<std::pair<int64_t, TokenId>> all;
    while (!engine.idle())
      for (const Event& event : engine.step())
        for (const TokenId token : event.tokens) all.emplace_back(event.id, token);
    std::vector<uint64_t> hashes;
    for (int64_t id = 1; id <= 6; ++id) hashes.push_back(engine.stats(id).logits_hash);
    return std::pair(all, hashes);
  };
  EXPECT_EQ(run(1), run(3));
}

}  // namespace
}  // namespace tq
