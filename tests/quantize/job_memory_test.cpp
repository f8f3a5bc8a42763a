#include "quantize/job_memory.h"

#include <gtest/gtest.h>

#include "convert/family_fixture.h"
#include "kernels/cpu/cpu_backend.h"
#include "quantize/allocation_steps.h"
#include "quantize/budget.h"
#include "quantize/float_backend.h"
#include "quantize/gradients.h"
#include "quantize/llama_70b.h"
#include "run/limited_backend.h"

namespace tq {
namespace {

using namespace families_test;

// What hidden states and all that works on them take of the host's memory in stages of a job.
struct TinyJob {
  TinyJob(const std::string& name, QuantizeOptions options) : fixture(load_fixture(name)) {
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    model = read(load_model(directory / "model"));
    for (size_t i = 0; i < 10; ++i) sequences.emplace_back(fixture.tokens.begin() + i, fixture.tokens.begin() + i + 32);
    options.effort = Effort::kFast, options.sequence = 32;
    plan = *make_plan(model, options);
  }

  uint64_t taken_by_choosing() {
    LimitedBackend backend(std::make_unique<FloatBackend>(*processor, threads), UINT64_MAX, true);
    JobFolder folder = *JobFolder::open(model, plan, directory / "out", false, "test");
    const std::span<const std::vector<TokenId>> all = sequences;
    QuantizePlan chosen = plan;
    const Status done =
        allocation_steps({.model = model, .plan = plan, .sequences = all.first(4), .held_out = all.last(kAllocationHeldOut)}, backend,
                         context, folder, chosen);
    EXPECT_TRUE(done.has_value()) << (done ? "" : done.error().message);
    return backend.most_used();
  }
  uint64_t taken_by_gradients() {
    LimitedBackend backend(std::make_unique<FloatBackend>(*processor, threads), UINT64_MAX, true);
    const auto done = measure_gradients(model, backend, context, {.sequences = sequences});
    EXPECT_TRUE(done.has_value()) << (done ? "" : done.error().message);
    return backend.most_used();
  }

  Fixture fixture;
  TemporaryDirectory directory;
  Model model;
  std::vector<std::vector<TokenId>> sequences;
  QuantizePlan plan;
  ThreadPool threads{2};
  Listener listener;
  Context context{.threads = threads, .listener = listener};
  std::unique_ptr<Backend> processor = make_cpu_backend(threads, best_isa());
};

TEST(JobMemory, TheChoiceOfBitsTakesNoMoreThanItIsSaidTo) {
  for (const char* name : {"llama2", "phi3"})
    for (const int64_t tokens : {0, 64}) {
      QuantizeOptions options;
      options.bits = 3, options.allocate = true, options.allocate_tokens = tokens;
      TinyJob job(name, options);
      const uint64_t taken = job.taken_by_choosing();
      EXPECT_GT(taken, 0u);
      EXPECT_LE(taken, allocation_memory(job.model.spec, allocation_plan(job.model.spec, job.plan.options, 4), 32))
          << name << ", " << tokens;
      EXPECT_LE(taken, planned_memory(job.model, job.plan, 2));
    }
}

TEST(JobMemory, GradientsTakeNoMoreThanTheyAreSaidTo) {
  for (const char* name : {"llama2", "phi3", "gemma3"}) {
    QuantizeOptions options;
    options.gradients = true, options.calibration_tokens = 320;
    TinyJob job(name, options);
    const uint64_t taken = job.taken_by_gradients();
    EXPECT_GT(taken, 0u);
    EXPECT_LE(taken, gradients_memory(job.model.spec, 10, 32)) << name;
    EXPECT_LE(taken, planned_memory(job.model, job.plan, 2)) << name;
  }
}

// With few tokens a pass back takes most: hidden states of every layer, the layers that are kept, logits; with all, the stream that
// candidates are rounded by.
TEST(JobMemory, OfAPlanCountsTheChoiceOfBits) {
  const Model model = *shapes_of(llama_70b(), "config.json");
  QuantizeOptions options;
  options.bits = 3, options.effort = Effort::kBest, options.allocate = true;
  const auto taken = [&](const AllocationPlan& own) { return allocation_memory(model.spec, own, options.sequence); };
  const auto sequences = static_cast<size_t>(calibration_tokens(options) / options.sequence);
  const AllocationPlan all = allocation_plan(model.spec, options, sequences);
  EXPECT_GT(taken(all), sequences * static_cast<uint64_t>(options.sequence) * 8192 * sizeof(float));
  EXPECT_GT(planned_memory(model, *make_plan(model, options), 8), taken(all));
  options.allocate_tokens = 2048;
  const AllocationPlan few = allocation_plan(model.spec, options, sequences);
  constexpr uint64_t kVocabulary = 128256, kLogits = 3 * 256 * kVocabulary * sizeof(float);
  EXPECT_GT(taken(few), training_bytes(model.spec, few.length) + kept_trace_bytes(model.spec, few.length) + kLogits);
}

// Of one wave the hidden states and the layers that are kept; the head as floats; logits of 256 tokens and their gradient.
TEST(JobMemory, OfAPlanCountsTheGradients) {
  Json config = llama_70b();
  config["hidden_size"] = 1024, config["intermediate_size"] = 4096, config["num_attention_heads"] = 16, config["num_hidden_layers"] = 24;
  const Model model = *shapes_of(config, "config.json");
  QuantizeOptions options;
  options.gradients = true;
  const int64_t wave = sequences_per_wave(model.spec, options.sequence);
  const uint64_t states = static_cast<uint64_t>(wave) * training_bytes(model.spec, options.sequence);
  const uint64_t kept = kept_trace_bytes(model.spec, wave * options.sequence);
  constexpr uint64_t kVocabulary = 128256, kHead = kVocabulary * 1024 * sizeof(float), kLogits = 2 * 256 * kVocabulary * sizeof(float);
  EXPECT_GT(planned_memory(model, *make_plan(model, options), 8), states + kept + kHead + kLogits);
}

}  // namespace
}  // namespace tq
