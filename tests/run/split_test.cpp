// Several backends as one give what one of them gives, bit for bit: models of every family and mixed codecs, prompts, single tokens,
// batches.
#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/host_peers.h"
#include "kernels/matrices.h"
#include "kernels/recording_parts.h"
#include "kernels/split/split_backend.h"
#include "model/family.h"
#include "run/engine.h"

namespace tq {
namespace {

Json config_of(const std::string& family) {
  Json config = {{"hidden_size", 256},          {"intermediate_size", 512}, {"num_hidden_layers", 2},
                 {"num_attention_heads", 8},    {"num_key_value_heads", 4}, {"head_dim", 32},
                 {"vocab_size", 320},           {"rms_norm_eps", 1e-5},     {"max_position_embeddings", 256},
                 {"tie_word_embeddings", false}};
  const auto is = [&](const char* architecture, const char* type) {
    config["architectures"] = {architecture};
    config["model_type"] = type;
  };
  if (family == "llama") is("LlamaForCausalLM", "llama");
  if (family == "qwen2") is("Qwen2ForCausalLM", "qwen2");
  if (family == "qwen3") is("Qwen3ForCausalLM", "qwen3");
  if (family == "phi3") is("Phi3ForCausalLM", "phi3");
  if (family == "gemma3") {
    is("Gemma3ForCausalLM", "gemma3_text");
    config["sliding_window"] = 5, config["final_logit_softcapping"] = 30.0, config["sliding_window_pattern"] = 2;
    config["tie_word_embeddings"] = true;
  }
  if (family == "mixtral") {
    is("MixtralForCausalLM", "mixtral");
    config["num_local_experts"] = 4, config["num_experts_per_tok"] = 2;
  }
  if (family == "odd heads") {
    is("LlamaForCausalLM", "llama");
    config["num_attention_heads"] = 6, config["num_key_value_heads"] = 3, config["head_dim"] = 20;
  }
  return config;
}

// Signs are of a tap point, that is of a width here.
PackedTensor grid_of(int64_t rows, int64_t columns, size_t seed) {
  static const std::vector<std::byte> signs(64, std::byte{0x5a});
  std::vector<uint8_t> rates;
  for (int64_t i = 0; i < (rows + 31) / 32; ++i) rates.push_back(static_cast<uint8_t>(2 + (seed + static_cast<size_t>(i * i)) % 5));
  PackedTensor tensor = random_grid(rows, columns, rates);
  for (PackedTensor::Part& part : tensor.parts)
    if (part.name == "sign") part.view.data = signs.data();
  return tensor;
}

// Blocks of values that are no larger than other matrices': products stay within what halves hold.
PackedTensor small_blocks(std::string_view name, int64_t halves, int64_t rows, int64_t columns) {
  PackedTensor tensor = random_blocks(name, rows, columns);
  PackedTensor::Part& part = tensor.parts[0];
  const auto bytes = static_cast<int64_t>(part.view.bytes());
  auto owner = std::make_shared<Buffer<uint8_t>>(static_cast<size_t>(bytes));
  std::copy_n(part.view.as<uint8_t>(), bytes, owner->data());
  const int64_t block = bytes / (element_count(tensor.shape) / ggml_type(tensor.variant)->block_size);
  for (int64_t at = 0; at < bytes; at += block)
    for (int64_t i = 0; i < halves; ++i) (*owner)[static_cast<size_t>(at + 2 * i + 1)] &= 0x8f;
  part.view.data = reinterpret_cast<const std::byte*>(owner->data());
  tensor.owner = owner;
  return tensor;
}

PackedTensor stacked(int64_t experts, const PackedTensor& one) {
  PackedTensor out = one;
  out.shape.insert(out.shape.begin(), experts);
  for (int64_t e = 1; e < experts; ++e) out.parts.push_back(one.parts[0]);
  return out;
}

PackedTensor tensor_of(size_t number, int64_t rows, int64_t columns) {
  switch (number % 5) {
    case 1: return random_halves(DType::kF16, rows, columns);
    case 2: return small_blocks("Q8_0", 1, rows, columns);
    case 3: return small_blocks("Q4_K", 2, rows, columns);
    default: return grid_of(rows, columns, number);
  }
}

Model make_model(const std::string& family) {
  Model model;
  model.source = family;
  model.config = config_of(family);
  model.spec = parse_config(model.config, family).value();
  size_t number = 0;
  const auto add = [&](const Linear& linear) {
    const int64_t columns = linear.in;
    PackedTensor tensor = linear.experts > 0   ? stacked(linear.experts, random_halves(DType::kF16, linear.out, columns))
                          : columns % 256 == 0 ? tensor_of(number, linear.out, columns)
                                               : grid_of(linear.out, columns, number);
    ++number;
    model.tensors.emplace(linear.name + ".weight", std::move(tensor));
    if (!linear.bias) return;
    Buffer<float> bias(static_cast<size_t>(linear.out));
    const auto values = gaussian(linear.out, number);
    std::copy(values.begin(), values.end(), bias.begin());
    model.tensors.emplace(linear.name + ".bias", plain_tensor({linear.out}, std::move(bias)));
  };
  for (const Linear* linear : linears(model.spec)) add(*linear);
  if (!model.spec.tied) add(model.spec.head);
  model.tensors.emplace(model.spec.embedding + ".weight", random_halves(DType::kF16, model.spec.vocabulary, model.spec.hidden));
  for (const std::string& name : tensor_names(model.spec)) {
    if (model.tensors.contains(name)) continue;
    const int64_t width = name.find("_norm.weight") != std::string::npos && name.find("self_attn") != std::string::npos
                              ? attention_of(model.spec.layers[0]).head_dim
                              : model.spec.hidden;
    Buffer<float> values(static_cast<size_t>(width));
    const auto random = gaussian(width, 3);
    for (size_t i = 0; i < values.size(); ++i) values[i] = 1.0f + 0.1f * random[i];
    model.tensors.emplace(name, plain_tensor({width}, std::move(values)));
  }
  const Status status = check_model(model);
  EXPECT_TRUE(status) << (status ? "" : status.error().message);
  return model;
}

class SplitModel : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> one(bool is_ref) { return is_ref ? make_ref_backend(threads_) : make_cpu_backend(threads_, best_isa()); }
  std::unique_ptr<Backend> split(bool is_ref, size_t count, SplitBy by = SplitBy::kRows) {
    std::vector<std::unique_ptr<Backend>> parts;
    for (size_t i = 0; i < count; ++i) parts.push_back(one(is_ref));
    const auto make = by == SplitBy::kRows ? make_split_backend : make_layer_backend;
    return make("split", std::move(parts), make_host_peers());
  }
  struct Way {
    Precision precision = Precision::kInt8;
    KvType kv_type = KvType::kF16;
    int64_t prompt = 13;
  };
  // Logits of a prompt's tokens, then of `singles` ones that were chosen.
  std::vector<float> logits(const Model& model, Backend& backend, const Way& way, int64_t singles = 4) {
    Network network = Network::create(model, backend).value();
    KvCache cache = KvCache::create(backend, model.spec, way.kv_type, 64).value();
    const int64_t vocabulary = model.spec.vocabulary;
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < way.prompt; ++i) tokens.push_back(static_cast<int32_t>((7 + 31 * i) % vocabulary));
    std::vector<float> out(static_cast<size_t>(vocabulary * way.prompt));
    const float* hidden = network.forward({.tokens = tokens, .cache = &cache, .precision = way.precision});
    network.head(hidden, way.prompt, out.data(), way.precision);
    int32_t next = 5;
    for (int64_t i = 0; i < singles; ++i) {
      const float* last =
          network.forward({.tokens = {&next, 1}, .first_position = way.prompt + i, .cache = &cache, .precision = way.precision});
      const Network::Choice choice = network.choose(last, way.precision);
      next = choice.token;
      out.resize(out.size() + static_cast<size_t>(vocabulary));
      backend.download(out.data() + out.size() - vocabulary, choice.logits, static_cast<uint64_t>(vocabulary) * sizeof(float));
    }
    return out;
  }
  static size_t first_difference(const std::vector<float>& a, const std::vector<float>& b) {
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (!(a[i] == b[i])) return i;
    return std::max(a.size(), b.size());
  }
  static constexpr std::pair<size_t, SplitBy> kWays[] = {{1, SplitBy::kRows}, {2, SplitBy::kRows},   {3, SplitBy::kRows},
                                                         {4, SplitBy::kRows}, {2, SplitBy::kLayers}, {3, SplitBy::kLayers}};
  void expect_same(const Model& model, bool is_ref, const Way& way) {
    const auto whole = one(is_ref);
    const auto expected = logits(model, *whole, way);
    EXPECT_TRUE(std::all_of(expected.begin(), expected.end(), [](float value) { return std::isfinite(value); }));
    for (const auto& [parts, by] : kWays) {
      const auto several = split(is_ref, parts, by);
      EXPECT_EQ(first_difference(logits(model, *several, way), expected), expected.size())
          << parts << (by == SplitBy::kRows ? " parts, " : " parts by layers, ") << (is_ref ? "ref" : "cpu") << ", precision "
          << static_cast<int>(way.precision) << ", keys " << kv_type_name(way.kv_type) << ", prompt " << way.prompt << "; vocabulary "
          << model.spec.vocabulary;
    }
  }

  ThreadPool threads_{2};
};

TEST_P(SplitModel, LogitsAreThoseOfOneBackend) {
  const Model model = make_model(GetParam());
  expect_same(model, true, {.prompt = 3});
  expect_same(model, false, {.prompt = 3});
  expect_same(model, false, {.precision = Precision::kFloat, .prompt = 13});
  expect_same(model, false, {.precision = Precision::kInvariant, .prompt = 13});
  expect_same(model, false, {.kv_type = KvType::kQ8});
  expect_same(model, false, {.kv_type = KvType::kF32, .prompt = 30});
}

// Four a layer and one before the head, and nothing that an earlier pass left behind: what is recorded has gathers of its own tokens alone.
TEST(SplitPasses, GatherWhatTheyNeed) {
  ThreadPool threads(2);
  const Model model = make_model("llama");
  std::vector<Shares> gathered;
  std::vector<std::unique_ptr<Backend>> parts;
  for (int i = 0; i < 2; ++i) parts.push_back(make_cpu_backend(threads, best_isa()));
  const auto backend = make_split_backend("split", std::move(parts), std::make_unique<NotingPeers>(gathered));
  Network network = Network::create(model, *backend).value();
  KvCache cache = KvCache::create(*backend, model.spec, KvType::kF16, 64).value();
  const std::vector<int32_t> prompt(13, 7);
  for (const bool asks : {true, false}) {
    const float* hidden = network.forward({.tokens = prompt, .cache = &cache});
    std::vector<float> logits(static_cast<size_t>(13 * model.spec.vocabulary));
    if (asks) network.head(hidden, 13, logits.data());
    const int32_t next = 5;
    network.choose(network.forward({.tokens = {&next, 1}, .first_position = 13, .cache = &cache}));
    gathered.clear();
    network.choose(network.forward({.tokens = {&next, 1}, .first_position = 14, .cache = &cache}));
    std::vector<int64_t> tokens;
    for (const Shares& shares : gathered) tokens.push_back(shares.tokens);
    EXPECT_EQ(tokens,
              std::vector<int64_t>(static_cast<size_t>(4 * model.spec.layers_count() + 1), 1));  // the last are hidden states and logits
  }
}

// One part has room for what the other has not: both go back to what was shared out before.
TEST_P(SplitModel, PassesWithoutMemoryForTheirRecordingAreEnqueuedInstead) {
  const Model model = make_model(GetParam());
  for (const SplitBy by : {SplitBy::kRows, SplitBy::kLayers})
    for (const size_t without : {0, 1}) {
      Recorder recorder;
      const auto run = [&](bool is_recorded) {
        std::vector<std::unique_ptr<Backend>> parts;
        for (size_t i = 0; i < 2; ++i) parts.push_back(std::make_unique<RecordingBackend>(one(false), recorder, i != without));
        const auto make = by == SplitBy::kRows ? make_split_backend : make_layer_backend;
        const auto backend = make("split", std::move(parts), std::make_unique<RecordingPeers>(recorder));
        recorder.is_on = is_recorded;
        return logits(model, *backend, {.prompt = 3}, 6);
      };
      const auto expected = run(false);
      EXPECT_EQ(recorder.recorded, 0);
      EXPECT_EQ(first_difference(run(true), expected), expected.size()) << "part " << without << " has no memory";
      const bool is_mixture = GetParam() == "mixtral";
      EXPECT_EQ(recorder.recorded > 0, !is_mixture);
    }
}

TEST_P(SplitModel, RequestsTogetherAreAnsweredAsByOneBackend) {
  const Model model = make_model(GetParam());
  const auto answers = [&](Backend& backend) {
    Network network = Network::create(model, backend).value();
    Engine engine = Engine::create(network, nullptr,
                                   {.context = 64,
                                    .kv_bytes = kv_page_bytes(model.spec, KvType::kF16, 4) * 16,
                                    .page_tokens = 4,
                                    .max_sequences = 4,
                                    .prefill_chunk = 7})
                        .value();
    std::vector<int64_t> ids;
    for (const int64_t length : {5, 1, 11, 11, 9}) {
      Request request{.max_tokens = 6, .ignore_end_of_turn = true};
      for (int64_t i = 0; i < length; ++i) request.prompt.push_back(static_cast<TokenId>(i * 17 % 300));
      ids.push_back(engine.submit(request).value());
    }
    std::map<int64_t, std::vector<TokenId>> tokens;
    while (!engine.idle())
      for (const Event& event : engine.step()) tokens[event.id].insert(tokens[event.id].end(), event.tokens.begin(), event.tokens.end());
    std::vector<uint64_t> hashes;
    for (const int64_t id : ids) hashes.push_back(engine.stats(id).logits_hash);
    return std::pair(tokens, hashes);
  };
  // The hash is of other values where the memory is not the host's.
  const auto whole = one(false), single = split(false, 1);
  const auto expected = answers(*single);
  EXPECT_EQ(answers(*whole).first, expected.first);
  for (const auto& [parts, by] : kWays)
    EXPECT_EQ(answers(*split(false, parts, by)), expected) << parts << (by == SplitBy::kRows ? " parts" : " parts by layers");
}

// Single tokens are computed at once, recorded, then repeated. A prompt's products have an order of sums that depends on the number
// of rows.
TEST_P(SplitModel, CudaCardsGiveWhatOneCardDoes) {
  const Model model = make_model(GetParam());
  for (const int parts : {2, 3, 4}) {
    auto several = make_cuda_backend(threads_, {.gpus = parts});
    if (!several && parts == 2) GTEST_SKIP() << several.error().message;
    if (!several) break;
    const auto whole = std::move(*make_cuda_backend(threads_));
    const auto vocabulary = static_cast<size_t>(model.spec.vocabulary);
    for (const KvType type : {KvType::kF16, KvType::kQ8}) {
      const Way way{.kv_type = type, .prompt = 1};
      const auto expected = logits(model, *whole, way, 30), found = logits(model, **several, way, 30);
      const size_t first = first_difference(found, expected);
      EXPECT_EQ(first, expected.size()) << parts << " cards, keys " << kv_type_name(type) << ": first at token " << first / vocabulary
                                        << ", row " << first % vocabulary << "; relative " << relative(found, expected);
    }
    for (const Precision precision : {Precision::kInt8, Precision::kFloat}) {
      const Way way{.precision = precision, .prompt = 40};
      const auto expected = logits(model, *whole, way, 0), found = logits(model, **several, way, 0);
      const auto not_finite = [](const auto& values) {
        return std::count_if(values.begin(), values.end(), [](const auto value) { return !std::isfinite(value); });
      };
      EXPECT_LT(relative(found, expected), precision == Precision::kFloat ? 1e-4 : 1e-3)
          << parts << " cards, a prompt; not finite: " << not_finite(found) << " of " << found.size() << ", on one card "
          << not_finite(expected);
    }
  }
}

TEST_P(SplitModel, ACudaCardGivesWhatTheProcessorDoes) {
  auto card = make_cuda_backend(threads_);
  if (!card) GTEST_SKIP() << card.error().message;
  const Model model = make_model(GetParam());
  const auto processor = one(false);
  for (const Precision precision : {Precision::kFloat, Precision::kInt8}) {
    const Way way{.precision = precision, .kv_type = KvType::kF32, .prompt = 40};
    const auto found = logits(model, **card, way, 0), expected = logits(model, *processor, way, 0);
    EXPECT_EQ(std::count_if(found.begin(), found.end(), [](float value) { return !std::isfinite(value); }), 0);
    if (precision == Precision::kFloat) {
      EXPECT_LT(relative(found, expected), 1e-3);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SplitModel, testing::Values("llama", "qwen2", "qwen3", "phi3", "gemma3", "mixtral", "odd heads"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

}  // namespace
}  // namespace tq
