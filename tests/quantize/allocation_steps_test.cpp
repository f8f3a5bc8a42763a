#include "quantize/allocation_steps.h"

#include <gtest/gtest.h>

#include <limits>

#include "convert/family_fixture.h"
#include "kernels/cpu/cpu_backend.h"
#include "quantize/allocation_plan.h"
#include "quantize/assemble.h"
#include "quantize/float_backend.h"
#include "quantize/job_steps.h"

namespace tq {
namespace {

using namespace families_test;

struct TinyJob {
  explicit TinyJob(QuantizeOptions options, const std::string& name = "llama2") : fixture(load_fixture(name)) {
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    model = read(load_model(directory / "model"));
    for (size_t i = 0; i < 6; ++i) sequences.emplace_back(fixture.tokens.begin() + 3 * i, fixture.tokens.begin() + 3 * i + 32);
    options.effort = Effort::kFast, options.allocate = true;
    plan = *make_plan(model, options);
    folder = *JobFolder::open(model, plan, directory / "out", false, "test");
  }

  // The plan with the chosen rates.
  QuantizePlan allocated() {
    const std::span<const std::vector<TokenId>> all = sequences;
    QuantizePlan out = plan;
    const Status done = allocation_steps(
        {.model = model, .plan = plan, .sequences = all.first(4), .held_out = all.last(2), .weights = weights.empty() ? nullptr : &weights},
        *backend, context, *folder, out);
    EXPECT_TRUE(done.has_value()) << (done ? "" : done.error().message);
    return out;
  }

  Fixture fixture;
  TemporaryDirectory directory;
  Model model;
  std::vector<std::vector<TokenId>> sequences;
  TokenWeights weights;  // of the first four; empty: all 1
  QuantizePlan plan;
  std::optional<JobFolder> folder;
  ThreadPool threads{2};
  Listener listener;
  Context context{.threads = threads, .listener = listener};
  std::unique_ptr<Backend> processor = make_cpu_backend(threads, best_isa());
  std::unique_ptr<Backend> backend = std::make_unique<FloatBackend>(*processor, threads);
};

std::vector<Rates> rates_of(const QuantizePlan& plan) {
  std::vector<Rates> out;
  for (const auto& layer : plan.layers)
    for (const TensorPlan& tensor : layer) out.push_back(tensor.rates);
  return out;
}

TEST(AllocationSteps, KeepTheBestOfWhatTheGuardMeasuresWithinTheBits) {
  for (const auto& [name, bits] : {std::pair("llama2", 2.5), std::pair("llama2", 3.0), std::pair("phi3", 3.0)}) {  // of fused linears too
    QuantizeOptions options;
    options.bits = bits;
    TinyJob job(options, name);
    const QuantizePlan plan = job.allocated();
    const AllocationFacts& facts = plan.allocation;
    for (const AllocationKind kind :
         {AllocationKind::kUniform, AllocationKind::kPromotions, AllocationKind::kMoves, AllocationKind::kRanges})
      EXPECT_GT(facts.kl[static_cast<size_t>(kind)], 0) << allocation_name(kind);
    for (const double divergence : facts.kl)
      if (divergence > 0) EXPECT_LE(facts.kl[static_cast<size_t>(facts.chosen)], divergence);
    EXPECT_LE(mean_bits(plan).code, bits * (1 + 1e-9));
    EXPECT_EQ(facts.ties, 0);
  }
}

TEST(AllocationSteps, FewTokensAreCutIntoShortSequencesAndDecideOnce) {
  QuantizeOptions options;
  options.bits = 3, options.allocate_tokens = 64, options.sequence = 32;
  TinyJob job(options);
  const AllocationPlan own = allocation_plan(job.model.spec, job.plan.options, 4);
  EXPECT_EQ(own.length, 32);
  EXPECT_EQ(own.priced, 2u);
  const QuantizePlan plan = job.allocated();
  const AllocationFacts& facts = plan.allocation;
  EXPECT_LE(facts.kl[static_cast<size_t>(facts.chosen)], facts.kl[static_cast<size_t>(AllocationKind::kUniform)]);
  EXPECT_EQ(facts.kl[static_cast<size_t>(AllocationKind::kRepriced)], 0) << "not measured";
  EXPECT_LE(mean_bits(plan).code, 3 * (1 + 1e-9));
}

// The weights are those of all tokens, however few decide the rest.
TEST(AllocationSteps, CandidatesAreRoundedByAllTextWhereItsTokensAreWeighted) {
  std::vector<std::string> candidates;
  for (const int64_t tokens : {0, 64}) {
    QuantizeOptions options;
    options.bits = 3, options.allocate_tokens = tokens, options.sequence = 32, options.gradients = true;
    TinyJob job(options);
    const std::span<const std::vector<TokenId>> all = job.sequences;
    job.weights = token_weights(job.model.spec, read(measure_gradients(job.model, *job.backend, job.context, {.sequences = all.first(4)})));
    job.allocated();
    candidates.push_back(read(read_text_file(job.folder->path() + "/steps/candidates-00000.safetensors")));
  }
  EXPECT_TRUE(candidates[0] == candidates[1]);
}

TEST(AllocationSteps, WhatIsFinishedIsTakenOverAndGivesTheSameRates) {
  TinyJob job({});
  const QuantizePlan first = job.allocated();
  std::filesystem::remove(job.folder->path() + "/steps/allocation.safetensors");
  const auto costs = std::filesystem::last_write_time(job.folder->path() + "/steps/costs-0.safetensors");
  const QuantizePlan again = job.allocated();
  EXPECT_EQ(rates_of(first), rates_of(again));
  EXPECT_EQ(first.allocation.kl, again.allocation.kl);
  EXPECT_EQ(costs, std::filesystem::last_write_time(job.folder->path() + "/steps/costs-0.safetensors"));
}

// The candidates take several times as much of the disk as the artifact.
TEST(AllocationSteps, WhatTheyWriteIsCountedBeforeTheJobBegins) {
  TinyJob job({});
  const auto on_disk = [&](std::string_view steps) {
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(job.folder->path() + "/steps"))
      if (entry.path().filename().string().starts_with(steps)) bytes += entry.file_size();
    return static_cast<double>(bytes);
  };
  const auto before = static_cast<double>(missing_bytes(job.model, job.plan, *job.folder));
  const QuantizePlan plan = job.allocated();
  const auto left = static_cast<double>(missing_bytes(job.model, plan, *job.folder));
  const double artifact = static_cast<double>(planned_bytes(job.model, plan));
  EXPECT_GT(before - left, 0.5 * on_disk("candidates-"));
  EXPECT_LT(before - left, on_disk("candidates-"));
  EXPECT_GT(left, artifact);
  EXPECT_LT(left, 2 * artifact);
}

TEST(AllocationSteps, DamagedStepsOfAnUnfinishedRunAreRefused) {
  TinyJob job({});
  const auto save = [&](DType dtype, size_t cut, uint8_t rate) {
    std::vector<Rates> rates;
    std::vector<JobFolder::Array> arrays;
    for (const auto& layer : job.plan.layers)
      for (const TensorPlan& tensor : layer) rates.push_back(Rates(tensor.rates.size() - cut, rate));
    size_t next = 0;
    for (const auto& layer : job.plan.layers)
      for (const TensorPlan& tensor : layer) {
        const Rates& own = rates[next++];
        arrays.push_back({{tensor.linear.name, dtype, {static_cast<int64_t>(own.size())}}, std::as_bytes(std::span<const uint8_t>(own))});
      }
    EXPECT_TRUE(job.folder->save_step("allocation", arrays, {}));
    QuantizePlan plan = job.plan;
    return load_allocation(job.model, *job.folder, plan);
  };
  EXPECT_TRUE(save(DType::kU8, 0, 3));
  for (const auto& refused : {save(DType::kI8, 0, 3), save(DType::kU8, 1, 3), save(DType::kU8, 0, 9), save(DType::kU8, 0, 0)}) {
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, ErrorCode::kBadInput);
  }
}

TEST(AllocationSteps, ATargetsGroupsMoveTogether) {
  QuantizeOptions options;
  options.bits = 2.7, options.target = Target::kVllm;
  TinyJob job(options);
  const QuantizePlan plan = job.allocated();
  std::vector<const Linear*> all;
  for (const auto& layer : plan.layers)
    for (const TensorPlan& tensor : layer) all.push_back(&tensor.linear);
  const std::vector<Rates> rates = rates_of(plan);
  for (const std::vector<size_t>& group : ties(all, Target::kVllm))
    for (const size_t i : group) EXPECT_EQ(rates[i], Rates(rates[i].size(), rates[group[0]][0])) << all[i]->name;
  EXPECT_EQ(plan.allocation.kl[static_cast<size_t>(AllocationKind::kRanges)], 0) << "not measured";
  EXPECT_GE(plan.allocation.ties, 0);
  EXPECT_LE(mean_bits(plan).code, 2.7 * (1 + 1e-9));
}

TEST(AllocationSteps, ExpertsOfAProjectionShareARate) {
  QuantizeOptions options;
  options.bits = 2.6;
  TinyJob job(options, "qwen3_moe");
  const QuantizePlan plan = job.allocated();
  for (const auto& layer : plan.layers)
    for (const TensorPlan& tensor : layer)
      if (tensor.linear.experts > 0) EXPECT_EQ(tensor.rates, Rates(tensor.rates.size(), tensor.rates[0])) << tensor.linear.name;
}

TEST(AllocationSteps, CostsThatAreNoNumbersAreRefused) {
  for (const float broken : {-1.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    TinyJob job({});
    const AllocationPlan own = allocation_plan(job.model.spec, job.plan.options, 4);
    std::vector<std::vector<float>> values;
    std::vector<JobFolder::Array> arrays;
    for (const auto& layer : job.plan.layers)
      for (const TensorPlan& tensor : layer)
        for (const int rate : own.rates) {
          const auto& costs = values.emplace_back(static_cast<size_t>(ranges_of(tensor.linear)), broken);
          arrays.push_back({{fmt::format("{}.{}", tensor.linear.name, rate), DType::kF32, {static_cast<int64_t>(costs.size())}},
                            std::as_bytes(std::span<const float>(costs))});
        }
    ASSERT_TRUE(job.folder->save_step("costs-0", arrays, {}));
    const std::span<const std::vector<TokenId>> all = job.sequences;
    QuantizePlan out = job.plan;
    const Status refused = allocation_steps({.model = job.model, .plan = job.plan, .sequences = all.first(4), .held_out = all.last(2)},
                                            *job.backend, job.context, *job.folder, out);
    ASSERT_FALSE(refused.has_value());
    EXPECT_NE(refused.error().message.find("no sound costs"), std::string::npos) << refused.error().message;
  }
}

TEST(AllocationSteps, WhatMovesMuchIsGoneThroughOnceMore) {
  QuantizeOptions options;
  options.bits = 2.5;
  TinyJob job(options);
  const QuantizePlan plan = job.allocated();
  EXPECT_TRUE(job.folder->has_step("costs-1"));
  EXPECT_FALSE(job.folder->has_step("costs-2"));
  EXPECT_GT(plan.allocation.kl[static_cast<size_t>(AllocationKind::kRepriced)], 0);
}

}  // namespace
}  // namespace tq
