#include "quantize/budget.h"

#include <gmock/gmock.h>

#include <cmath>

#include "convert/family_fixture.h"
#include "kernels/cpu/cpu_backend.h"
#include "quantize/allocate.h"
#include "quantize/job.h"
#include "quantize/llama_70b.h"
#include "run/engine.h"
#include "run/limited_backend.h"

namespace tq {
namespace {

Json tiny() {
  return {{"architectures", {"Qwen2ForCausalLM"}},
          {"hidden_size", 96},
          {"intermediate_size", 200},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 300},
          {"rms_norm_eps", 1e-5},
          {"max_position_embeddings", 512}};
}

double bits_at(const Model& model, uint64_t bytes, int embedding, int head) {
  QuantizeOptions options;
  options.embedding_bits = embedding, options.head_bits = head;
  const auto fitted = fit_bits(model, options, bytes);
  EXPECT_TRUE(fitted.has_value()) << (fitted ? "" : fitted.error().message);
  return fitted ? mean_bits(*make_plan(model, *fitted)).code : 0;
}

// The design counted 10 MB more of scales and signs than there are: 0.0012 bits.
TEST(FitBits, OfSeventyBillionWeightsAreThoseOfTheDesign) {
  const Model model = *shapes_of(llama_70b(), "config.json");
  EXPECT_NEAR(bits_at(model, 35'000'000'000, 6, 6), 3.903, 0.002);
  EXPECT_NEAR(bits_at(model, 27'000'000'000, 6, 6), 2.968, 0.002);
  EXPECT_NEAR(bits_at(model, 35'000'000'000, 4, 5), 3.949, 0.002);
  EXPECT_NEAR(bits_at(model, 27'000'000'000, 4, 5), 3.014, 0.002);
  for (const auto& [bits, gigabytes] : {std::pair{4.0, 35.83}, std::pair{3.0, 27.27}}) {
    QuantizeOptions options;
    options.bits = bits;
    EXPECT_NEAR(static_cast<double>(planned_bytes(model, *make_plan(model, options))) / 1e9, gigabytes, 0.012);
  }
}

TEST(FitBits, NeverExceedsTheSizeAndComesWithinARange) {
  const Model model = *shapes_of(tiny(), "config.json");
  QuantizeOptions options;
  const auto size = [&](double bits) {
    options.bits = bits;
    return planned_bytes(model, *make_plan(model, options));
  };
  for (uint64_t bytes = size(2.0); bytes < size(8.0); bytes += 7919) {
    const auto fitted = fit_bits(model, options, bytes);
    ASSERT_TRUE(fitted.has_value()) << fitted.error().message;
    const uint64_t got = size(fitted->bits);
    EXPECT_LE(got, bytes);
    EXPECT_GT(got + 32 * 200 + 128 * 200 / 8, bytes) << "a range of the widest linear, and its padding";
  }
}

TEST(FitBits, ASizeThatIsTooSmallNamesTheSmallest) {
  const Model model = *shapes_of(tiny(), "config.json");
  const auto fitted = fit_bits(model, {}, 1000);
  ASSERT_FALSE(fitted.has_value());
  QuantizeOptions options;
  options.bits = 2;
  EXPECT_THAT(fitted.error().message, testing::HasSubstr(std::to_string(planned_bytes(model, *make_plan(model, options)))));
}

TEST(FitBits, OfMethodsOfWholeBitsAreTheMostThatFit) {
  const Model model = *shapes_of(tiny(), "config.json");
  for (const auto& [method, most] : {std::pair{Method::kGptq, 8.0}, std::pair{Method::kQuip, 4.0}}) {
    QuantizeOptions options;
    options.method = method;
    const auto size = [&](double bits) {
      options.bits = bits;
      return planned_bytes(model, *make_plan(model, options));
    };
    const uint64_t three = size(3), two = size(2);
    EXPECT_EQ(fit_bits(model, options, three)->bits, 3);
    EXPECT_EQ(fit_bits(model, options, three - 1)->bits, 2);
    EXPECT_EQ(fit_bits(model, options, two)->bits, 2);
    EXPECT_EQ(fit_bits(model, options, uint64_t{1} << 40)->bits, most);
  }
}

// What stages add (norms as floats, steps in the record) counts, and what follows from the bits is asked for at each of them.
TEST(FitBits, CountWhatCompletesTheOptions) {
  const Model model = *shapes_of(tiny(), "config.json");
  const Completion with_tuning = [](QuantizeOptions options) -> Result<QuantizeOptions> {
    options.tune = true;
    return options;
  };
  QuantizeOptions options;
  const uint64_t bytes = planned_bytes(model, *make_plan(model, options));
  const auto fitted = fit_bits(model, options, bytes, with_tuning);
  ASSERT_TRUE(fitted) << fitted.error().message;
  EXPECT_LT(fitted->bits, options.bits);
  EXPECT_LE(planned_bytes(model, *make_plan(model, *with_tuning(*fitted))), bytes);
  const auto refused = fit_bits(model, options, bytes, [](QuantizeOptions) -> Result<QuantizeOptions> { return bad_usage("no"); });
  EXPECT_FALSE(refused.has_value());
}

TEST(MostBytes, HoldForAnyRatesOfTheSameMean) {
  const Model model = *shapes_of(tiny(), "config.json");
  for (const double bits : {2.5, 3.0, 4.7}) {
    QuantizeOptions options;
    options.bits = bits;
    EXPECT_EQ(most_bytes(model, *make_plan(model, options)), planned_bytes(model, *make_plan(model, options)));
    options.allocate = true;
    const QuantizePlan plan = *make_plan(model, options);
    const uint64_t most = most_bytes(model, plan);
    const std::vector<const Linear*> linears = rated_linears(model.spec);
    for (const bool is_first : {true, false}) {  // the first linears at the highest rates, or the last
      RangeCosts costs;
      for (int rate = 2; rate <= 7; ++rate)
        for (size_t i = 0; i < linears.size(); ++i)
          costs[rate].push_back(std::vector<double>(static_cast<size_t>(ranges_of(*linears[i])),
                                                    std::exp2(-2.0 * rate) * static_cast<double>(is_first ? linears.size() - i : i + 1)));
      const Allocation allocation = allocate(linears, make_units(linears, linear_parts(model.spec, linears), costs, false), bits);
      QuantizePlan chosen = plan;
      std::vector<std::vector<Rates>> rates;
      size_t next = 0;
      for (const auto& layer : plan.layers) {
        rates.emplace_back();
        for (size_t i = 0; i < layer.size(); ++i) rates.back().push_back(allocation.rates[next++]);
      }
      set_rates(model, chosen, rates);
      EXPECT_LE(planned_bytes(model, chosen), most) << bits;
      EXPECT_LT(static_cast<double>(most), 1.2 * static_cast<double>(planned_bytes(model, chosen))) << "a promise that says something";
    }
    options.byte_limit = most - 1;
    EXPECT_EQ(most_bytes(model, *make_plan(model, options)), most - 1);
  }
}

TEST(FitMemory, LeavesRoomForKeysAndValues) {
  const Model model = *shapes_of(llama_70b(), "config.json");
  const RunningMemory one{.memory = 48'000'000'000, .context = 8192}, four{.memory = 48'000'000'000, .context = 8192, .batch = 4};
  const uint64_t cache = 2ull * 80 * 8 * 128 * 2 * 8192;
  EXPECT_GT(running_bytes(model.spec, one), cache);
  EXPECT_NEAR(static_cast<double>(running_bytes(model.spec, four) - running_bytes(model.spec, one)), 3.0 * static_cast<double>(cache), 1e7);
  for (const RunningMemory& running : {one, four}) {
    const auto fitted = fit_memory(model, {}, running);
    ASSERT_TRUE(fitted) << fitted.error().message;
    const uint64_t all = planned_bytes(model, *make_plan(model, *fitted)) + running_bytes(model.spec, running);
    EXPECT_LE(all, running.memory);
    EXPECT_GT(static_cast<double>(all), 0.9999 * static_cast<double>(running.memory));
  }
}

// Beside the weights, which are the files.
TEST(FitMemory, AnEngineTakesWhatRunningIsSaidToTakeAndNoMore) {
  using namespace families_test;
  for (const char* name : {"llama2", "gemma3", "mixtral"}) {
    const Fixture fixture = load_fixture(name);
    TemporaryDirectory directory;
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    const Model model = read(load_model(directory / "model"));
    for (const int64_t batch : {1, 5}) {
      const RunningMemory running{.context = 64, .batch = batch};
      ThreadPool threads{2};
      LimitedBackend device(make_cpu_backend(threads, best_isa()));
      Network network = Network::create(model, device).value();
      const uint64_t weights = device.used();
      const uint64_t cache = kv_cache_bytes(model.spec, KvType::kF16, running.context) * static_cast<uint64_t>(batch);
      Engine engine = Engine::create(network, nullptr, {.context = running.context, .kv_bytes = cache, .max_sequences = batch}).value();
      for (int64_t i = 0; i < batch; ++i) {
        const std::vector<TokenId> prompt(fixture.tokens.begin() + i, fixture.tokens.begin() + i + 20);
        ASSERT_TRUE(engine.submit({.prompt = prompt, .sampler = {}, .max_tokens = 4, .stop = {}, .end_of_turn = {}}));
      }
      while (!engine.idle()) engine.step();
      const uint64_t taken = device.most_used() - weights, said = engine_bytes(model.spec, running);
      EXPECT_LE(taken, said) << name << ", " << batch;
      EXPECT_GT(static_cast<double>(taken), 0.9 * static_cast<double>(said)) << name << ", " << batch;
      EXPECT_LE(said, running_bytes(model.spec, running));
    }
  }
}

// What it says is enough, and nothing less is.
TEST(FitMemory, TooLittleNamesTheLeastThatIsPossible) {
  const Model model = *shapes_of(tiny(), "config.json");
  RunningMemory running{.memory = 1000, .context = 512, .batch = 3};
  const auto refused = fit_memory(model, {}, running);
  ASSERT_FALSE(refused.has_value());
  QuantizeOptions options;
  options.bits = 2;
  const uint64_t least = planned_bytes(model, *make_plan(model, options)) + running_bytes(model.spec, running);
  EXPECT_THAT(refused.error().message, testing::HasSubstr("takes " + std::to_string(least)));
  EXPECT_THAT(refused.error().message, testing::HasSubstr("3 x 512 tokens"));
  running.memory = least - 1;
  EXPECT_FALSE(fit_memory(model, {}, running).has_value());
  running.memory = least;
  EXPECT_TRUE(fit_memory(model, {}, running).has_value());
}

// Weights in tiles, each matrix in pages of 2 MiB, take little more than the files; the rest is keys, values and what works.
TEST(FitCard, TheFootprintIsTheFilesAndWhatRunningTakes) {
  const Model model = *shapes_of(llama_70b(), "config.json");
  QuantizeOptions options;
  options.bits = 3;
  const QuantizePlan plan = *make_plan(model, options);
  const RunningMemory running{.context = 8192, .batch = 4};
  const CardFootprint footprint = footprint_of(model, &plan, running);
  const auto files = static_cast<double>(planned_bytes(model, plan));
  EXPECT_GT(static_cast<double>(footprint.weights), files);
  EXPECT_LT(static_cast<double>(footprint.weights), 1.02 * files);
  EXPECT_NEAR(static_cast<double>(footprint.keys_values), 4 * 2.0 * 80 * 8 * 128 * 2 * 8192, 2 << 20);
  EXPECT_LT(footprint.working, 1'000'000'000u);
}

TEST(FitCard, ChoosesTheMostBitsThatFit) {
  const Model model = *shapes_of(llama_70b(), "config.json");
  for (const uint64_t memory : {uint64_t{26'000'000'000}, uint64_t{34'000'000'000}, uint64_t{48'000'000'000}}) {
    const RunningMemory running{.memory = memory, .context = 8192};
    const auto fitted = fit_card(model, {}, running);
    ASSERT_TRUE(fitted) << fitted.error().message;
    const QuantizePlan plan = *make_plan(model, *fitted);
    EXPECT_LE(footprint_of(model, &plan, running).all(), memory);
    EXPECT_GT(static_cast<double>(footprint_of(model, &plan, running).all()), 0.99 * static_cast<double>(memory));
    EXPECT_LE(planned_bytes(model, plan), fitted->byte_limit);
    ASSERT_TRUE(fitted->card);
    EXPECT_EQ(fitted->card->memory, memory);
    EXPECT_EQ(excess_bytes(model, plan), 0u);
  }
  EXPECT_FALSE(fit_card(model, {}, {.memory = 10'000'000'000}));
}

// A card gives memory in pages of 2 MiB: bits that move to many small matrices take more there than in the files.
TEST(FitCard, RatesOfTheSameMeanThatTakeMorePagesAreBeyondIt) {
  const Model model = *shapes_of(llama_70b(), "config.json");
  QuantizeOptions options;
  options.bits = 3;
  QuantizePlan plan = *make_plan(model, options);
  const RunningMemory running{.context = 8192};
  options.card = running;
  options.card->memory = footprint_of(model, &plan, running).all();
  plan = *make_plan(model, options);
  EXPECT_EQ(excess_bytes(model, plan), 0u);
  std::vector<std::vector<Rates>> rates;
  for (const auto& layer : plan.layers) {
    rates.emplace_back();
    for (const TensorPlan& tensor : layer) {
      Rates own = tensor.rates;
      const bool gains = tensor.linear.role == Role::kKey || tensor.linear.role == Role::kValue;
      if (gains) std::fill(own.begin(), own.end(), uint8_t{5});
      // What both gain, 2 bits of 16.8 M weights, the first rows of `down`, of 28672 columns, pay.
      if (tensor.linear.role == Role::kDown) std::fill_n(own.begin(), 2 * 2 * 1024 * 8192 / (grid::kRateRows * 28672), uint8_t{2});
      rates.back().push_back(std::move(own));
    }
  }
  set_rates(model, plan, rates);
  EXPECT_NEAR(mean_bits(plan).code, 3, 0.01);
  EXPECT_GT(excess_bytes(model, plan), 0u);
  plan.options.card.reset();
  EXPECT_EQ(excess_bytes(model, plan), 0u);
}

TEST(Plan, RatesOfTheUsersReplaceTheUniformOnes) {
  const Model model = *shapes_of(tiny(), "config.json");
  QuantizeOptions options;
  options.bits = 3;
  options.rates = {{"model.layers.1.mlp.down_proj", 5}, {"model.layers.2.self_attn.v_proj", 3.5}};
  const QuantizePlan plan = *make_plan(model, options);
  for (const TensorPlan* tensor : plan.tensors()) {
    const double expected = tensor->linear.name == "model.layers.1.mlp.down_proj"      ? 5
                            : tensor->linear.name == "model.layers.2.self_attn.v_proj" ? 3.5
                            : tensor->linear.role == Role::kHead                       ? 6
                                                                                       : 3;
    EXPECT_NEAR(mean_rate(*tensor), expected, 0.2) << tensor->linear.name;
  }
  options.rates = {{"model.layers.9.mlp.down_proj", 5}};
  const auto unknown = make_plan(model, options);
  ASSERT_FALSE(unknown.has_value());
  EXPECT_THAT(unknown.error().message, testing::HasSubstr("model.layers.9.mlp.down_proj"));
}

}  // namespace
}  // namespace tq
