// Engines on a device whose memory ends: what a step may need is there before the first one, or the engine is refused.
#include <gtest/gtest.h>

#include "artifact/reader.h"
#include "base/rng.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/host_peers.h"
#include "kernels/split/split_backend.h"
#include "run/engine.h"
#include "run/limited_backend.h"

namespace tq {
namespace {

class EngineMemory : public testing::TestWithParam<std::string> {
 protected:
  static constexpr EngineOptions kOptions{
      .context = 96, .page_tokens = 8, .max_sequences = 5, .prefill_chunk = 20, .precision = Precision::kInvariant};

  Request request(uint64_t seed) const {
    Request out{.max_tokens = 8, .ignore_end_of_turn = true};
    Rng rng(seed);
    for (uint64_t i = 0; i < 1 + seed * 7; ++i)
      out.prompt.push_back(static_cast<TokenId>(rng.below(static_cast<uint64_t>(model_.spec.vocabulary))));
    const SamplerOptions samplers[] = {{},
                                       {.temperature = 0.0f},
                                       {.temperature = 1.0f, .repetition_penalty = 1.3f},
                                       {.top_k = 0, .top_p = 0.9f},  // needs all logits
                                       {.top_k = 0, .top_p = 1.0f, .min_p = 0.1f}};
    out.sampler = samplers[seed % 5];
    out.sampler.seed = seed;
    return out;
  }
  std::vector<std::vector<TokenId>> answers(Engine& engine) const {
    std::vector<std::vector<TokenId>> all(8);
    for (uint64_t seed = 0; seed < 7; ++seed) EXPECT_TRUE(engine.submit(request(seed)));
    while (!engine.idle())
      for (const Event& event : engine.step()) {
        auto& own = all[static_cast<size_t>(event.id)];
        own.insert(own.end(), event.tokens.begin(), event.tokens.end());
        if (event.finish) {
          EXPECT_EQ(event.finish, Finish::kLength);
        }
      }
    return all;
  }
  std::unique_ptr<Backend> cpu() { return make_cpu_backend(threads_, best_isa()); }

  Model model_ = read_artifact(TQ_TEST_DATA "/artifact/format-1/" + GetParam()).value();
  ThreadPool threads_{2};
};

// A device gives the answers that the host gives, though it sends only the largest logits.
TEST_P(EngineMemory, StepsTakeNone) {
  const auto host = cpu();
  Network own = Network::create(model_, *host).value();
  Engine unlimited = Engine::create(own, nullptr, kOptions).value();
  const auto expected = answers(unlimited);
  LimitedBackend device(cpu());
  Network network = Network::create(model_, device).value();
  Engine engine = Engine::create(network, nullptr, kOptions).value();
  const uint64_t used = device.used();
  device.set_limit(used);
  EXPECT_EQ(answers(engine), expected);
  EXPECT_EQ(device.used(), used);
}

TEST_P(EngineMemory, AnEngineThatDoesNotFitIsRefused) {
  LimitedBackend device(cpu());
  Network network = Network::create(model_, device).value();
  const uint64_t before = device.used();
  uint64_t needed = 0;
  {
    Network again = Network::create(model_, device).value();
    const Engine engine = Engine::create(again, nullptr, kOptions).value();
    needed = device.used() - 2 * before;
  }
  ASSERT_EQ(device.used(), before);
  for (const uint64_t part : {0, 1, 2, 50, 99}) {
    device.set_limit(before + needed * part / 100);
    const auto engine = Engine::create(network, nullptr, kOptions);
    ASSERT_FALSE(engine) << part;
    EXPECT_EQ(engine.error().code, ErrorCode::kNoResource);
  }
  device.set_limit(before + needed);
  auto engine = Engine::create(network, nullptr, kOptions);
  ASSERT_TRUE(engine) << engine.error().message;
  answers(*engine);
  device.set_limit(before / 2);
  const auto refused = Network::create(model_, device);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNoResource);
}

// Two devices that share out rows: what lies apart on each is there before the first step, too.
TEST_P(EngineMemory, StepsOfSeveralDevicesTakeNone) {
  std::vector<std::unique_ptr<Backend>> parts;
  std::vector<LimitedBackend*> devices;
  for (int i = 0; i < 2; ++i) {
    parts.push_back(std::make_unique<LimitedBackend>(cpu()));
    devices.push_back(static_cast<LimitedBackend*>(parts.back().get()));
  }
  const auto split = make_split_backend("split", std::move(parts), make_host_peers());
  Network network = Network::create(model_, *split).value();
  const uint64_t before = devices[1]->used();
  std::vector<uint64_t> used;
  {
    Engine engine = Engine::create(network, nullptr, kOptions).value();
    for (LimitedBackend* device : devices) used.push_back(device->used()), device->set_limit(used.back());
    const auto host = cpu();
    Network own = Network::create(model_, *host).value();
    Engine unlimited = Engine::create(own, nullptr, kOptions).value();
    EXPECT_EQ(answers(engine), answers(unlimited));
    for (size_t i = 0; i < devices.size(); ++i) EXPECT_EQ(devices[i]->used(), used[i]);
  }
  for (LimitedBackend* device : devices) device->set_limit(UINT64_MAX);
  Network again = Network::create(model_, *split).value();
  devices[1]->set_limit(devices[1]->used() + (used[1] - before) / 2);
  const auto refused = Engine::create(again, nullptr, kOptions);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNoResource);
}

INSTANTIATE_TEST_SUITE_P(Models, EngineMemory, testing::Values("llama-original-4", "gemma3-2", "qwen3-5.5", "mixture-random-bits"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             if (!isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

}  // namespace
}  // namespace tq
