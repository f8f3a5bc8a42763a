#include "eval/random_model.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "base/float16.h"
#include "base/hash.h"
#include "base/rng.h"
#include "codec/grid/grid.h"
#include "codec/grid/taps.h"
#include "model/family.h"

namespace tq {
namespace {

constexpr int kTableBits = 6;       // of the embedding and the head
constexpr int kLongestWindow = 12;  // of the taps: what --effort normal takes at 3 and 4 bits

// What config.json says, as far as it decides shapes and speed. Contexts are at least 32768, whatever the model itself was made for.
struct KnownModel {
  std::string_view name, other_name;
  const char* architecture;
  const char* type;  // model_type
  int64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, context;
  double rope_theta;
  bool tied = false;
  int64_t experts = 0, experts_per_token = 0;  // of a mixture; `intermediate` is then an expert's
  int64_t window = 0;
};

constexpr const char* kLlama = "LlamaForCausalLM";
constexpr std::array kModels = {
    KnownModel{"llama-1b", "", kLlama, "llama", 2048, 5632, 22, 32, 4, 64, 32000, 32768, 1e4},  // TinyLlama
    KnownModel{"llama-3-8b", "llama-8b", kLlama, "llama", 4096, 14336, 32, 32, 8, 128, 128256, 131072, 5e5},
    KnownModel{"llama-3-70b", "llama-70b", kLlama, "llama", 8192, 28672, 80, 64, 8, 128, 128256, 131072, 5e5},
    KnownModel{"qwen2.5-0.5b", "", "Qwen2ForCausalLM", "qwen2", 896, 4864, 24, 14, 2, 64, 151936, 32768, 1e6, true},
    KnownModel{"qwen3-8b", "", "Qwen3ForCausalLM", "qwen3", 4096, 12288, 36, 32, 8, 128, 151936, 40960, 1e6},
    KnownModel{"qwen3-30b-a3b", "", "Qwen3MoeForCausalLM", "qwen3_moe", 2048, 768, 48, 32, 4, 128, 151936, 40960, 1e6, false, 128, 8},
    KnownModel{"gemma-3-4b", "", "Gemma3ForCausalLM", "gemma3_text", 2560, 10240, 34, 8, 4, 256, 262208, 131072, 1e6, true, 0, 0, 1024},
};
constexpr auto kNames = [] {
  std::array<std::string_view, kModels.size()> names;
  for (size_t i = 0; i < names.size(); ++i) names[i] = kModels[i].name;
  return names;
}();

const KnownModel* find_model(std::string_view name) {
  const auto found =
      std::find_if(kModels.begin(), kModels.end(), [&](const KnownModel& each) { return each.name == name || each.other_name == name; });
  return name.empty() || found == kModels.end() ? nullptr : &*found;
}

Json config_of(const KnownModel& model) {
  Json config = {{"architectures", {model.architecture}},
                 {"model_type", model.type},
                 {"hidden_size", model.hidden},
                 {"intermediate_size", model.intermediate},
                 {"num_hidden_layers", model.layers},
                 {"num_attention_heads", model.heads},
                 {"num_key_value_heads", model.kv_heads},
                 {"head_dim", model.head_dim},
                 {"vocab_size", model.vocabulary},
                 {"max_position_embeddings", model.context},
                 {"rms_norm_eps", 1e-5},
                 {"rope_theta", model.rope_theta},
                 {"tie_word_embeddings", model.tied}};
  if (model.experts > 0)
    config.update({{"num_experts", model.experts},
                   {"num_experts_per_tok", model.experts_per_token},
                   {"moe_intermediate_size", model.intermediate},
                   {"norm_topk_prob", true}});
  if (model.window > 0) config["sliding_window"] = model.window;
  return config;
}

Result<Json> changed_config(const RandomModelOptions& options) {
  const KnownModel* known = find_model(options.name);
  if (!known) return bad_usage("there is no random model '{}'; give {}", options.name, fmt::join(kNames, ", "));
  Json config = config_of(*known);
  config.update(options.changes);
  return config;
}

class Builder {
 public:
  Builder(const RandomModelOptions& options, ThreadPool& threads) : options_(options), threads_(threads) {}

  Result<Model> build() {
    model_.source = fmt::format("random {}, {} bits", options_.name, options_.bits);
    model_.format = "random";
    TQ_ASSIGN(model_.config, changed_config(options_));
    TQ_ASSIGN(model_.spec, parse_config(model_.config, model_.source));
    const ModelSpec& spec = model_.spec;
    for (const auto& layer : spec.layers)
      for (const Block& block : layer) add_norms(block);
    add_norm(spec.final_norm);
    for (const Linear* linear : linears(spec)) add_linear(*linear);
    const int table_bits = options_.bits == 16 ? 16 : kTableBits;
    add_matrix(spec.head, table_bits);
    if (!spec.tied) add_matrix({.name = spec.embedding, .in = spec.hidden, .out = spec.vocabulary, .tap = spec.embedding}, table_bits);
    TQ_TRY(check_model(model_));
    model_.file_bytes = stored_bytes(model_).all;
    return std::move(model_);
  }

 private:
  void add_vector(const std::string& name, int64_t width, float value) {
    Buffer<float> values(static_cast<size_t>(width));
    std::fill(values.begin(), values.end(), value);
    model_.tensors.emplace(name, plain_tensor({width}, std::move(values)));
  }
  // Factors of 1.
  void add_norm(const Norm& norm) { add_vector(norm.name + ".weight", norm.width, 1.0f - model_.spec.norm_offset); }
  void add_norms(const Block& block) {
    add_norm(block.pre);
    if (block.post) add_norm(*block.post);
    const auto* attention = std::get_if<Attention>(&block.op);
    if (!attention) return;
    if (attention->query_norm) add_norm(*attention->query_norm);
    if (attention->key_norm) add_norm(*attention->key_norm);
  }

  // Routers are not quantized.
  void add_linear(const Linear& linear) {
    add_matrix(linear, linear.role == Role::kRouter ? 16 : options_.bits);
    if (linear.bias) add_vector(linear.name + ".bias", linear.out, 0.0f);
  }
  void add_matrix(const Linear& linear, int bits) {
    model_.tensors.emplace(linear.name + ".weight", bits == 16 ? half_matrix(linear) : grid_matrix(linear, bits));
  }

  uint64_t seed_of(const std::string& name) const { return hash64(std::as_bytes(std::span<const char>(name)), options_.seed); }

  // 8 random bytes each, the n-th word a function of the seed and n alone. words: [count]
  void fill(uint64_t* words, int64_t count, uint64_t seed) {
    const uint64_t start = splitmix64(seed);
    threads_.run(count, 1 << 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) words[i] = splitmix64(start + static_cast<uint64_t>(i));
    });
  }

  static int64_t matrices_of(const Linear& linear) { return std::max<int64_t>(1, linear.experts); }
  static Shape shape_of(const Linear& linear) {
    if (linear.experts == 0) return {linear.out, linear.in};
    return {linear.experts, linear.out, linear.in};
  }

  // Standard deviation 1 / sqrt(C), uniform: outputs stay the size of inputs.
  PackedTensor half_matrix(const Linear& linear) {
    const int64_t count = matrices_of(linear) * linear.out * linear.in;
    auto values = std::make_shared<Buffer<uint16_t>>(Buffer<uint16_t>::uninitialized(static_cast<size_t>(count)));
    TQ_CHECK(count % 4 == 0);
    fill(reinterpret_cast<uint64_t*>(values->data()), count / 4, seed_of(linear.name));
    std::array<uint16_t, 4096> table;
    const double width = std::sqrt(3.0 / static_cast<double>(linear.in));
    for (size_t i = 0; i < table.size(); ++i)
      table[i] = float_to_f16(static_cast<float>(width * ((static_cast<double>(i) + 0.5) / 2048 - 1)));
    threads_.run(count, 1 << 18, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) (*values)[static_cast<size_t>(i)] = table[(*values)[static_cast<size_t>(i)] % table.size()];
    });
    const TensorView view{DType::kF16, shape_of(linear), reinterpret_cast<const std::byte*>(values->data())};
    return plain_tensor(view, values);
  }

  // What a grid tensor points into.
  struct Storage {
    Buffer<uint64_t> bits;
    std::vector<uint16_t> row_scale;
    std::vector<uint8_t> rates, sign;
    grid::Taps taps;
  };

  PackedTensor grid_matrix(const Linear& linear, int bits) {
    auto storage = std::make_shared<Storage>();
    const int64_t matrices = matrices_of(linear);
    const auto ranges = static_cast<size_t>((linear.out + grid::kRateRows - 1) / grid::kRateRows);
    storage->rates.assign(static_cast<size_t>(matrices) * ranges, static_cast<uint8_t>(bits));
    const grid::Layout layout(linear.out, linear.in, std::span(storage->rates).first(ranges));           // of each
    TQ_CHECK(layout.plane_rows == layout.padded_plane_rows && layout.columns == layout.padded_columns);  // else padding must be cleared
    const int64_t words = matrices * static_cast<int64_t>(layout.bytes() / 8);
    storage->bits = Buffer<uint64_t>::uninitialized(static_cast<size_t>(words));
    fill(storage->bits.data(), words, seed_of(linear.name));
    storage->row_scale.assign(static_cast<size_t>(matrices * linear.out), float_to_f16(1.0f / std::sqrt(static_cast<float>(linear.in))));
    Rng rng(seed_of(linear.tap + ".sign"));
    storage->sign.resize(static_cast<size_t>((linear.in + 7) / 8));
    for (uint8_t& byte : storage->sign) byte = static_cast<uint8_t>(rng.bits());
    int window = 0;
    for (const int each : grid::windows(bits))
      if (each <= kLongestWindow) window = each;
    storage->taps = grid::default_taps(bits, window);

    PackedTensor tensor;
    tensor.codec = CodecId::kGrid;
    tensor.shape = shape_of(linear);
    const auto add = [&](std::string name, DType dtype, int64_t count, const void* data) {
      tensor.parts.push_back({std::move(name), {dtype, {count}, static_cast<const std::byte*>(data)}});
    };
    add("bits", DType::kU8, words * 8, storage->bits.data());
    add("row_scale", DType::kF16, matrices * linear.out, storage->row_scale.data());
    add("rates", DType::kU8, static_cast<int64_t>(storage->rates.size()), storage->rates.data());
    add("sign", DType::kU8, static_cast<int64_t>(storage->sign.size()), storage->sign.data());
    add(grid::taps_name(bits, window), DType::kF32, window, storage->taps.data());
    tensor.owner = storage;
    return tensor;
  }

  const RandomModelOptions& options_;
  ThreadPool& threads_;
  Model model_;
};

}  // namespace

std::span<const std::string_view> random_model_names() { return kNames; }

Result<ModelSpec> random_model_spec(const RandomModelOptions& options) {
  TQ_ASSIGN(const Json config, changed_config(options));
  return parse_config(config, fmt::format("random {}", options.name));
}

Result<Model> make_random_model(const RandomModelOptions& options, ThreadPool& threads) {
  if (options.bits != 16 && (options.bits < 2 || options.bits > grid::kMaxRate))
    return bad_usage("{} bits for a random model: give 2 to {}, or 16", options.bits, grid::kMaxRate);
  return Builder(options, threads).build();
}

}  // namespace tq
