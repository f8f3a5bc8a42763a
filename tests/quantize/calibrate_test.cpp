#include "quantize/calibrate.h"

#include <gmock/gmock.h>

#include "base/rng.h"
#include "convert/family_fixture.h"
#include "kernels/cpu/cpu_backend.h"
#include "quantize/float_backend.h"
#include "quantize/job.h"
#include "quantize/layer_trainer.h"
#include "quantize/rounded_layer.h"
#include "quantize/stage_budgets.h"
#include "run/limited_backend.h"

namespace tq {
namespace {

using namespace families_test;

constexpr int64_t kLength = 24;

// A tiny model with calibration sequences of three texts.
struct Tiny {
  explicit Tiny(const std::string& name, int64_t steps = 8, Method method = Method::kTurboquant)
      : fixture(method == Method::kQuip ? narrowed(load_fixture(name), 168) : load_fixture(name)) {
    options.method = method;
    write_hf(fixture.weights, fixture.json["config"], DType::kF32, 1 << 30, directory / "model");
    const auto loaded = load_model(directory / "model");
    if (!loaded) throw std::runtime_error(loaded.error().message);
    model = *loaded;
    Rng random(7);
    for (int i = 0; i < 24; ++i) {
      sequences.emplace_back();
      for (int64_t t = 0; t < kLength; ++t)
        sequences.back().push_back(static_cast<TokenId>(random.below(static_cast<uint64_t>(model.spec.vocabulary))));
      text.push_back(i / 8);
    }
    options.effort = Effort::kFast;
    options.calibrate = true;
    options.calibrate_steps = steps;
    options.calibrate_sequences = 3;
  }
  QuantizePlan plan() const { return *make_plan(model, options); }

  Fixture fixture;
  TemporaryDirectory directory;
  Model model;
  std::vector<std::vector<TokenId>> sequences;
  std::vector<int> text;
  QuantizeOptions options;
};

// A calibration on `threads` threads.
struct Attempt {
  Attempt(const Tiny& tiny, int threads)
      : pool(threads), context{pool, listener}, plan(tiny.plan()), cpu(make_cpu_backend(pool, best_isa())), backend(*cpu, pool) {
    request.emplace(CalibrationRequest{tiny.model, plan, tiny.sequences, tiny.text});
  }
  CalibrationBudget budget() const { return calibration_budget(plan.options, 1); }
  ThreadPool pool;
  Listener listener;
  Context context;
  QuantizePlan plan;
  std::unique_ptr<Backend> cpu;
  FloatBackend backend;
  std::optional<CalibrationRequest> request;
};

std::string bytes_of(const QuantizePlan& plan, int64_t layer, const RoundedStep& rounded) {
  std::string out;
  for (const auto& [name, view] : arrays_of(plan.layers[static_cast<size_t>(layer)], rounded))
    out += name + std::string(reinterpret_cast<const char*>(view.data), view.bytes());
  return out;
}

std::vector<std::vector<std::string>> stage_names(const Model& model) {
  std::vector<const Linear*> all;
  for (const Block& block : model.spec.layers[0])
    for (const Linear* linear : linears(block)) all.push_back(linear);
  std::vector<std::vector<std::string>> out;
  for (const CalibrationStage& stage : calibration_stages(model.spec.layers[0])) {
    out.emplace_back();
    for (const size_t i : stage.tensors) out.back().push_back(all[i]->name.substr(all[i]->name.rfind('.') + 1));
  }
  return out;
}

TEST(Calibrate, StagesFollowTheWayThroughTheBlock) {
  using Names = std::vector<std::vector<std::string>>;
  EXPECT_EQ(stage_names(Tiny("llama3").model),
            (Names{{"q_proj", "k_proj"}, {"v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}}));
  EXPECT_EQ(stage_names(Tiny("phi3").model), (Names{{"qkv_proj"}, {"o_proj"}, {"gate_up_proj"}, {"down_proj"}}));
}

TEST(Calibrate, WithoutMemoryForItsTokensSaysWhatTakesFewer) {
  const Tiny tiny("llama3");
  Attempt attempt(tiny, 1);
  LimitedBackend small(make_cpu_backend(attempt.pool, best_isa()), 1000);
  const auto passes = CalibrationPasses::create(*attempt.request, small, attempt.context);
  ASSERT_FALSE(passes);
  EXPECT_EQ(passes.error().code, ErrorCode::kNoResource);
  EXPECT_THAT(passes.error().message, testing::HasSubstr("576 calibration tokens"));
  EXPECT_THAT(passes.error().message, testing::HasSubstr("--calibration-tokens"));
}

TEST(Calibrate, HoldsOutSequencesOfEveryTextThatHasTwo) {
  std::vector<int> text(20, 0);
  for (int i = 0; i < 3; ++i) text.push_back(1);
  text.push_back(2);
  const CalibrationSplit split = split_sequences(text);
  std::map<int, int> held_out;
  for (const int64_t i : split.held_out) ++held_out[text[static_cast<size_t>(i)]];
  EXPECT_EQ(held_out, (std::map<int, int>{{0, 2}, {1, 1}}));
  EXPECT_EQ(split.held_out.size() + split.training.size(), text.size());
  for (const int64_t i : split.held_out) EXPECT_EQ(std::count(split.training.begin(), split.training.end(), i), 0);
}

TEST(Calibrate, AsManySequencesAreHeldOutAsExpectedOfAnyNumberOfTexts) {
  for (const int texts : {1, 3, 5, 20}) {
    std::vector<int> text;
    for (int i = 0; i < 16 * texts; ++i) text.push_back(i % texts);
    EXPECT_EQ(split_sequences(text).held_out.size(), held_out_sequences(16 * texts, static_cast<size_t>(texts)));
  }
}

TEST(Calibrate, OperationsAreOfTheCalibrationsOwnTexts) {
  const ModelSpec spec = Tiny("llama3").model.spec;
  QuantizeOptions options;
  options.calibrate = true;
  options.calibration_tokens = 24 * 16, options.sequence = 16;
  const auto operations = [&](std::vector<std::string> files) {
    options.calibration = std::move(files);
    return stage_operations(spec, options).calibration;
  };
  const std::vector<std::string> twelve(12, "text");
  EXPECT_EQ(calibration_texts({}), built_in_calibration().size());
  EXPECT_GT(operations(twelve), operations({"one"}));  // one sequence of two is judged by, or one of eight
  EXPECT_GT(tune_settings(options, 1024).held_out, 0);
  options.calibration = twelve;
  EXPECT_EQ(tune_settings(options, 1024).held_out, 12 * kHeldOutOfText);
}

// The first layer calibrated, the model with it, and what its block then loses on held-out text.
struct FirstLayer {
  std::optional<CalibratedLayer> made;  // the model points into it
  Model model;
  BlockErrors kept;
};
void calibrate_first(const Tiny& tiny, Attempt& run, FirstLayer& out) {
  auto passes = CalibrationPasses::create(*run.request, run.backend, run.context);
  ASSERT_TRUE(passes.has_value()) << passes.error().message;
  ASSERT_TRUE(passes->begin(0));
  auto made = calibrate_layer(*passes, run.budget(), run.backend);
  ASSERT_TRUE(made.has_value()) << made.error().message;
  out.made.emplace(std::move(*made));
  const auto& tensors = run.plan.layers[0];
  out.model = *with_rounded(tiny.model, tensors, run.plan.taps, arrays_of(tensors, out.made->rounded), nullptr);
  out.kept = *passes->held_out_errors(*prepare_trainable_layer(out.model, 0, run.backend));
}

TEST(Calibrate, ABlockIsNeverWorseThanWithoutAndIsWhatWasMeasured) {
  int gains = 0;
  for (const char* name : {"llama3", "qwen2", "gemma3", "phi3"}) {
    Tiny tiny(name, 16);
    tiny.options.calibrate_weight_rate = tiny.options.calibrate_vector_rate = 3e-3;
    Attempt run(tiny, 2);
    FirstLayer first;
    ASSERT_NO_FATAL_FAILURE(calibrate_first(tiny, run, first));
    EXPECT_GT(first.made->facts.plain, 0) << name;
    EXPECT_LE(first.kept.all, first.made->facts.plain) << name;
    EXPECT_DOUBLE_EQ(first.kept.all, first.made->facts.is_kept ? first.made->facts.calibrated : first.made->facts.plain) << name;
    gains += first.made->facts.is_kept;
  }
  EXPECT_GE(gains, 1);  // little is to be gained with random weights on random text
}

// One text that is learned by heart, and one that pays for it: it weighs more then, until it does not.
TEST(Calibrate, ATextThatGetsWorseWeighsMoreInAnotherAttempt) {
  int repeated = 0;
  for (const char* name : {"llama3", "qwen2", "gemma3", "phi3"}) {
    Tiny tiny(name, 24);
    for (size_t i = 0; i < tiny.sequences.size(); ++i) {
      tiny.text[i] = i + 2 < tiny.sequences.size() ? 0 : 1;
      if (tiny.text[i] == 0) tiny.sequences[i] = tiny.sequences[0];
    }
    tiny.options.calibrate_weight_rate = tiny.options.calibrate_vector_rate = 1e-2;
    Attempt run(tiny, 2);
    FirstLayer first;
    ASSERT_NO_FATAL_FAILURE(calibrate_first(tiny, run, first));
    const CalibrationFacts& facts = first.made->facts;
    repeated += facts.attempts > 1;
    EXPECT_DOUBLE_EQ(first.kept.all, facts.is_kept ? facts.calibrated : facts.plain) << name << ", attempt " << facts.attempts;
    Attempt again(tiny, 1);
    FirstLayer same;
    ASSERT_NO_FATAL_FAILURE(calibrate_first(tiny, again, same));
    EXPECT_EQ(bytes_of(run.plan, 0, first.made->rounded), bytes_of(again.plan, 0, same.made->rounded)) << name;
  }
  EXPECT_GE(repeated, 1);
}

TEST(Calibrate, TextsWeighInGradientsAndNotInWhatIsJudged) {
  const Tiny tiny("llama3");
  Attempt run(tiny, 1);
  auto passes = CalibrationPasses::create(*run.request, run.backend, run.context);
  ASSERT_TRUE(passes && passes->begin(0));
  const auto made = calibrate_layer(*passes, run.budget(), run.backend);
  ASSERT_TRUE(made);
  const Model model = *with_rounded(tiny.model, run.plan.layers[0], run.plan.taps, arrays_of(run.plan.layers[0], made->rounded), nullptr);
  const LayerWeights weights = *prepare_trainable_layer(model, 0, run.backend);
  const auto gradient = [&](int text) {
    const std::vector<int64_t>& training = passes->split().training;
    const int64_t sequence =
        *std::find_if(training.begin(), training.end(), [&](int64_t i) { return tiny.text[static_cast<size_t>(i)] == text; });
    double sum = 0;
    const GradientSinks sinks{.linear = [](const LinearGradient&) {},
                              .norm = [&](const NormGradient& each) { sum += each.weight_gradient[0]; }};
    EXPECT_TRUE(passes->gradients(weights, {sequence, 0, 1.0}, sinks));
    return sum;
  };
  passes->weigh_texts({1, 1, 1});
  const double first = gradient(0), second = gradient(1), judged = passes->held_out_errors(weights)->all;
  ASSERT_NE(second, 0);
  passes->weigh_texts({1, 4, 1});
  EXPECT_EQ(gradient(0), first);
  EXPECT_NEAR(gradient(1), 4 * second, 1e-4 * std::abs(second));
  EXPECT_EQ(passes->held_out_errors(weights)->all, judged);
}

// QuIP#'s fine-tuning: E8P as the rounding, row scales that its signs become.
TEST(Calibrate, QuipsBlocksLoseLessWithTuningThanWithout) {
  int gains = 0;
  for (const char* name : {"llama3", "llama_bias", "gemma3"}) {
    Tiny tiny(name, 24, Method::kQuip);
    tiny.options.bits = 2;
    tiny.options.calibrate_weight_rate = tiny.options.calibrate_vector_rate = 1e-2;
    Attempt run(tiny, 2);
    FirstLayer first;
    ASSERT_NO_FATAL_FAILURE(calibrate_first(tiny, run, first));
    EXPECT_DOUBLE_EQ(first.kept.all, first.made->facts.is_kept ? first.made->facts.calibrated : first.made->facts.plain) << name;
    if (!first.made->facts.is_kept) continue;
    ++gains;
    EXPECT_LT(first.made->facts.calibrated, first.made->facts.plain) << name;
    const PackedTensor& tensor = *first.model.find(run.plan.layers[0][0].linear.name + ".weight");
    EXPECT_EQ(tensor.codec, CodecId::kE8p);
    const TensorView& scales = *tensor.part("row_scale");
    const auto* halves = scales.as<uint16_t>();
    EXPECT_TRUE(std::any_of(halves, halves + scales.count(), [](uint16_t half) { return f16_to_float(half) != 1.0f; })) << name;
  }
  EXPECT_GE(gains, 2);
}

TEST(Calibrate, WithoutStepsIsStagedRoundingAlone) {
  Tiny tiny("llama3", 8);
  tiny.options.calibrate_weight_rate = tiny.options.calibrate_vector_rate = 0;
  Attempt run(tiny, 2);
  auto passes = CalibrationPasses::create(*run.request, run.backend, run.context);
  ASSERT_TRUE(passes->begin(0));
  const auto made = calibrate_layer(*passes, run.budget(), run.backend);
  ASSERT_TRUE(made.has_value()) << made.error().message;
  for (const auto& [name, values] : made->rounded.changed) {
    const Buffer<float> original = decode(*tiny.model.find(name));
    EXPECT_TRUE(std::equal(values.begin(), values.end(), original.begin(), original.end())) << name;
  }
}

class CalibrateMethods : public testing::TestWithParam<Method> {};
INSTANTIATE_TEST_SUITE_P(All, CalibrateMethods, testing::Values(Method::kTurboquant, Method::kQuip),
                         [](const auto& instance) { return std::string(method_name(instance.param)); });

TEST_P(CalibrateMethods, SameBytesOnAnyNumberOfThreadsAndAfterAResumption) {
  const Tiny tiny("llama_bias", 4, GetParam());
  Attempt one(tiny, 1), two(tiny, 2), late(tiny, 2);
  auto first = Calibration::create(*one.request, one.backend, one.backend, one.context);
  auto second = Calibration::create(*two.request, two.backend, two.backend, two.context);
  auto resumed = Calibration::create(*late.request, late.backend, late.backend, late.context);
  const auto layers = static_cast<int64_t>(tiny.model.spec.layers.size());
  for (int64_t layer = 0; layer < layers; ++layer) {
    const auto a = first->round(), b = second->round();
    ASSERT_TRUE(a && b);
    const std::string bytes = bytes_of(one.plan, layer, a->rounded);
    EXPECT_TRUE(bytes == bytes_of(two.plan, layer, b->rounded)) << layer;
    if (layer + 1 == layers) {
      EXPECT_TRUE(bytes == bytes_of(late.plan, layer, resumed->round()->rounded));
      break;
    }
    const std::string path = tiny.directory / ("step" + std::to_string(layer));
    std::vector<safetensors::TensorInfo> infos;
    const StepArrays arrays = arrays_of(one.plan.layers[static_cast<size_t>(layer)], a->rounded);
    for (const auto& [name, view] : arrays) infos.push_back({name, view.dtype, view.shape});
    safetensors::order_for_alignment(infos);
    auto writer = *safetensors::Writer::create(path, infos);
    for (const auto& info : infos) ASSERT_TRUE(writer.append(arrays.at(info.name).span()));
    ASSERT_TRUE(writer.finish());
    for (Calibration* each : {&*first, &*second, &*resumed}) ASSERT_TRUE(each->advance(*safetensors::Archive::open_file(path)));
  }
}

TEST(Calibrate, MixturesAreRoundedWithoutIt) {
  const Tiny tiny("mixtral");
  Attempt run(tiny, 2);
  auto calibration = Calibration::create(*run.request, run.backend, run.backend, run.context);
  const auto made = calibration->round();
  ASSERT_TRUE(made.has_value()) << made.error().message;
  EXPECT_EQ(made->facts.plain, 0);
  EXPECT_TRUE(made->rounded.changed.empty());
  EXPECT_TRUE(calibrated_vectors(tiny.model.spec).empty());
}

TEST(Calibrate, ChangedVectorsArePlannedToTheByte) {
  const Tiny tiny("qwen2", 1);
  Attempt run(tiny, 2);
  auto calibration = Calibration::create(*run.request, run.backend, run.backend, run.context);
  const auto made = calibration->round();
  ASSERT_TRUE(made.has_value());
  size_t found = 0;
  for (const std::string& name : calibrated_vectors(tiny.model.spec)) found += made->rounded.changed.contains(name);
  EXPECT_EQ(found, made->rounded.changed.size());
  for (const auto& [name, values] : made->rounded.changed)
    EXPECT_EQ(static_cast<int64_t>(values.size()), element_count(tiny.model.find(name)->shape)) << name;
}

TEST(Calibrate, AboveThirtyBillionWeightsVectorsAloneAreTrainedFromThreeBitsOn) {
  QuantizeOptions options;
  options.bits = 3;
  EXPECT_GT(calibration_budget(options, kVectorsOnlyWeights - 1).weight_rate, 0);
  EXPECT_EQ(calibration_budget(options, kVectorsOnlyWeights).weight_rate, 0);
  options.bits = 2;
  EXPECT_GT(calibration_budget(options, kVectorsOnlyWeights).weight_rate, 0);
}

TEST(Calibrate, TheTrainerGoesBackToItsBestState) {
  const Tiny tiny("qwen2");
  Attempt run(tiny, 2);
  auto passes = CalibrationPasses::create(*run.request, run.backend, run.context);
  ASSERT_TRUE(passes->begin(0));
  LayerWeights weights = *prepare_trainable_layer(tiny.model, 0, run.backend);
  ASSERT_TRUE(passes->make_targets(weights));
  for (int64_t k = 0; k < 8; ++k) run.backend.training()->weights(*weights[0].linears[0].matrix)[k] += 0.5f;  // something to learn from
  auto trainer = LayerTrainer::create({tiny.model.spec, 0, {1e-3, 5e-3}}, weights, run.backend);
  trainer->fix(2, *run.backend.training()->prepare_trainable(*tiny.model.find("model.layers.0.self_attn.v_proj.weight")));
  trainer->begin();
  const double before = passes->held_out_errors(weights)->all;
  const Buffer<float> old = trainer->weights_of(0);
  const GradientSinks sinks = trainer->sinks();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(passes->gradients(weights, {passes->split().training[0]}, sinks));
    trainer->step(1.0);
  }
  EXPECT_NE(passes->held_out_errors(weights)->all, before);
  EXPECT_NE(trainer->row_factors(2), std::vector<float>(trainer->row_factors(2).size(), 1.0f));
  trainer->restore();
  EXPECT_NEAR(passes->held_out_errors(weights)->all, before, 1e-5 * before);
  EXPECT_TRUE(std::equal(old.begin(), old.end(), trainer->weights_of(0).begin()));
  EXPECT_EQ(trainer->row_factors(2), std::vector<float>(trainer->row_factors(2).size(), 1.0f));
}

}  // namespace
}  // namespace tq
