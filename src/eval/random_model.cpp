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

constexpr std::array<std::string_view, 3> kNames = {"llama-1b", "llama-8b", "llama-70b"};

// config.json of TinyLlama 1.1B, Llama 3.1 8B and 70B, as far as it decides shapes.
Json config_of(std::string_view name) {
  struct Size {
    int64_t hidden, intermediate, layers, heads, kv_heads, vocabulary, context;
    double rope_theta;
  };
  constexpr std::array<Size, 3> kSizes = {{{2048, 5632, 22, 32, 4, 32000, 2048, 1e4},
                                           {4096, 14336, 32, 32, 8, 128256, 8192, 5e5},
                                           {8192, 28672, 80, 64, 8, 128256, 8192, 5e5}}};
  const Size& size = kSizes[static_cast<size_t>(std::find(kNames.begin(), kNames.end(), name) - kNames.begin())];
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", size.hidden},
          {"intermediate_size", size.intermediate},
          {"num_hidden_layers", size.layers},
          {"num_attention_heads", size.heads},
          {"num_key_value_heads", size.kv_heads},
          {"vocab_size", size.vocabulary},
          {"max_position_embeddings", size.context},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", size.rope_theta},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false}};
}

class Builder {
 public:
  Builder(const RandomModelOptions& options, ThreadPool& threads) : options_(options), threads_(threads) {}

  Result<Model> build() {
    model_.source = fmt::format("random {}, {} bits", options_.name, options_.bits);
    model_.format = "random";
    model_.config = config_of(options_.name);
    TQ_ASSIGN(model_.spec, parse_config(model_.config, model_.source));
    const ModelSpec& spec = model_.spec;
    for (const auto& layer : spec.layers)
      for (const Block& block : layer) add_norm(block.pre);
    add_norm(spec.final_norm);
    for (const Linear* linear : linears(spec)) add_matrix(*linear, options_.bits);
    const int table_bits = options_.bits == 16 ? 16 : kTableBits;
    add_matrix(spec.head, table_bits);
    add_matrix({.name = spec.embedding, .in = spec.hidden, .out = spec.vocabulary, .tap = spec.embedding}, table_bits);
    TQ_TRY(check_model(model_));
    model_.file_bytes = stored_bytes(model_).all;
    return std::move(model_);
  }

 private:
  void add_norm(const Norm& norm) {
    Buffer<float> ones(static_cast<size_t>(norm.width));
    std::fill(ones.begin(), ones.end(), 1.0f);
    model_.tensors.emplace(norm.name + ".weight", plain_tensor({norm.width}, std::move(ones)));
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

  // Standard deviation 1 / sqrt(C), uniform: outputs stay the size of inputs.
  PackedTensor half_matrix(const Linear& linear) {
    const int64_t count = linear.out * linear.in;
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
    const TensorView view{DType::kF16, {linear.out, linear.in}, reinterpret_cast<const std::byte*>(values->data())};
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
    storage->rates.assign(static_cast<size_t>((linear.out + grid::kRateRows - 1) / grid::kRateRows), static_cast<uint8_t>(bits));
    const grid::Layout layout(linear.out, linear.in, storage->rates);
    TQ_CHECK(layout.plane_rows == layout.padded_plane_rows && layout.columns == layout.padded_columns);  // else padding must be cleared
    const auto words = static_cast<int64_t>(layout.bytes() / 8);
    storage->bits = Buffer<uint64_t>::uninitialized(static_cast<size_t>(words));
    fill(storage->bits.data(), words, seed_of(linear.name));
    storage->row_scale.assign(static_cast<size_t>(linear.out), float_to_f16(1.0f / std::sqrt(static_cast<float>(linear.in))));
    Rng rng(seed_of(linear.tap + ".sign"));
    storage->sign.resize(static_cast<size_t>((linear.in + 7) / 8));
    for (uint8_t& byte : storage->sign) byte = static_cast<uint8_t>(rng.bits());
    int window = 0;
    for (const int each : grid::windows(bits))
      if (each <= kLongestWindow) window = each;
    storage->taps = grid::default_taps(bits, window);

    PackedTensor tensor;
    tensor.codec = CodecId::kGrid;
    tensor.shape = {linear.out, linear.in};
    const auto add = [&](std::string name, DType dtype, int64_t count, const void* data) {
      tensor.parts.push_back({std::move(name), {dtype, {count}, static_cast<const std::byte*>(data)}});
    };
    add("bits", DType::kU8, words * 8, storage->bits.data());
    add("row_scale", DType::kF16, linear.out, storage->row_scale.data());
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

Result<Model> make_random_model(const RandomModelOptions& options, ThreadPool& threads) {
  if (std::find(kNames.begin(), kNames.end(), options.name) == kNames.end())
    return bad_usage("there is no random model '{}'; give {}", options.name, fmt::join(kNames, " or "));
  if (options.bits != 16 && (options.bits < 2 || options.bits > grid::kMaxRate))
    return bad_usage("{} bits for a random model: give 2 to {}, or 16", options.bits, grid::kMaxRate);
  return Builder(options, threads).build();
}

}  // namespace tq
