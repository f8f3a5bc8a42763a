#include "model/family/decoder.h"

#include <cmath>

namespace tq {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeadDim = 4096;  // every layer keeps frequencies for half of it

std::string layer_prefix(int64_t layer) { return fmt::format("model.layers.{}.", layer); }

Norm norm(const std::string& name, int64_t width, float epsilon) { return Norm{name, width, epsilon}; }

}  // namespace

Result<DecoderDims> read_dims(const JsonReader& config, const DecoderTraits& traits, ModelSpec* spec) {
  DecoderDims dims;
  TQ_ASSIGN(dims.hidden, config.integer("hidden_size", 1, kMaxWidth));
  TQ_ASSIGN(dims.intermediate, config.integer("intermediate_size", 1, kMaxWidth));
  TQ_ASSIGN(dims.layers, config.integer("num_hidden_layers", 1, kMaxLayers));
  TQ_ASSIGN(dims.heads, config.integer("num_attention_heads", 1, kMaxWidth));
  TQ_ASSIGN(dims.kv_heads, config.integer_or("num_key_value_heads", dims.heads, 1, dims.heads));
  const int64_t fallback = traits.default_head_dim > 0 ? traits.default_head_dim : dims.hidden / dims.heads;
  TQ_ASSIGN(dims.head_dim, config.integer_or("head_dim", fallback, 1, kMaxHeadDim));
  if (dims.heads % dims.kv_heads != 0)
    return bad_input("{}: {} attention heads do not divide among {} key-value heads", config.where(), dims.heads, dims.kv_heads);
  if (dims.head_dim > kMaxHeadDim) return bad_input("{}: heads of {} dimensions are too wide", config.where(), dims.head_dim);
  if (dims.head_dim % 2 != 0) return bad_input("{}: head_dim {} is odd", config.where(), dims.head_dim);
  TQ_ASSIGN(const double epsilon, config.number_or("rms_norm_eps", 1e-6));
  if (!(epsilon >= 0 && epsilon < 1)) return bad_input("{}: 'rms_norm_eps' is {}, outside 0 to 1", config.where(), epsilon);
  dims.epsilon = static_cast<float>(epsilon);
  spec->hidden = dims.hidden;
  TQ_ASSIGN(spec->vocabulary, config.integer("vocab_size", 1, int64_t{1} << 28));
  TQ_ASSIGN(spec->context, config.integer_or("max_position_embeddings", 2048, 1, int64_t{1} << 28));
  TQ_ASSIGN(spec->tied, config.boolean_or("tie_word_embeddings", traits.default_tied));
  spec->embedding = "model.embed_tokens";
  spec->final_norm = norm("model.norm", dims.hidden, dims.epsilon);
  spec->head = Linear{
      .name = spec->tied ? spec->embedding : "lm_head", .in = dims.hidden, .out = spec->vocabulary, .tap = "lm_head", .role = Role::kHead};
  return dims;
}

Block attention_block(const DecoderDims& dims, const DecoderTraits& traits, int64_t layer, const Rope& rope, int64_t window) {
  const std::string prefix = layer_prefix(layer);
  const std::string attention = prefix + "self_attn.";
  const int64_t query = dims.heads * dims.head_dim;
  const int64_t key = dims.kv_heads * dims.head_dim;
  const auto input = [&](const char* name, int64_t out, Role role) {
    return Linear{.name = attention + name,
                  .in = dims.hidden,
                  .out = out,
                  .bias = traits.qkv_bias,
                  .tap = attention + "input",
                  .role = role,
                  .tie_group = attention + "qkv"};
  };
  Attention op;
  if (traits.fused) {
    op.qkv = {input("qkv_proj", query + 2 * key, Role::kFusedQkv)};
  } else {
    op.qkv = {input("q_proj", query, Role::kQuery), input("k_proj", key, Role::kKey), input("v_proj", key, Role::kValue)};
  }
  op.output = Linear{.name = attention + "o_proj",
                     .in = query,
                     .out = dims.hidden,
                     .bias = traits.output_bias,
                     .tap = attention + "o_proj",
                     .role = Role::kOutput};
  op.heads = dims.heads, op.kv_heads = dims.kv_heads, op.head_dim = dims.head_dim;
  if (traits.head_norms) {
    op.query_norm = norm(attention + "q_norm", dims.head_dim, dims.epsilon);
    op.key_norm = norm(attention + "k_norm", dims.head_dim, dims.epsilon);
  }
  op.rope = rope;
  op.window = window;
  op.score_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dims.head_dim)));
  Block block{.pre = norm(prefix + "input_layernorm", dims.hidden, dims.epsilon), .op = std::move(op), .post = {}};
  if (traits.post_norms) block.post = norm(prefix + "post_attention_layernorm", dims.hidden, dims.epsilon);
  return block;
}

Block mlp_block(const DecoderDims& dims, const DecoderTraits& traits, int64_t layer) {
  const std::string prefix = layer_prefix(layer);
  const std::string mlp = prefix + "mlp.";
  const auto input = [&](const char* name, int64_t out, Role role) {
    return Linear{.name = mlp + name,
                  .in = dims.hidden,
                  .out = out,
                  .bias = traits.mlp_bias,
                  .tap = mlp + "input",
                  .role = role,
                  .tie_group = mlp + "gate_up"};
  };
  Mlp op;
  if (traits.fused) {
    op.gate_up = {input("gate_up_proj", 2 * dims.intermediate, Role::kFusedGateUp)};
  } else {
    op.gate_up = {input("gate_proj", dims.intermediate, Role::kGate), input("up_proj", dims.intermediate, Role::kUp)};
  }
  op.down = Linear{.name = mlp + "down_proj",
                   .in = dims.intermediate,
                   .out = dims.hidden,
                   .bias = traits.mlp_bias,
                   .tap = mlp + "down_proj",
                   .role = Role::kDown};
  op.activation = traits.activation;
  const char* pre = traits.post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
  Block block{.pre = norm(prefix + pre, dims.hidden, dims.epsilon), .op = std::move(op), .post = {}};
  if (traits.post_norms) block.post = norm(prefix + "post_feedforward_layernorm", dims.hidden, dims.epsilon);
  return block;
}

Block moe_block(const DecoderDims& dims, const DecoderTraits& common, const MoeTraits& traits, int64_t layer) {
  const std::string prefix = layer_prefix(layer);
  const std::string moe = prefix + traits.prefix + ".";
  const auto expert = [&](const char* name, int64_t in, int64_t out, const char* tap, Role role) {
    return Linear{.name = moe + "experts." + name, .in = in, .out = out, .experts = traits.experts, .tap = moe + tap, .role = role};
  };
  Moe op;
  op.router = Linear{.name = moe + "gate", .in = dims.hidden, .out = traits.experts, .tap = moe + "input", .role = Role::kRouter};
  op.gate_up = {expert("gate_proj", dims.hidden, traits.intermediate, "input", Role::kGate),
                expert("up_proj", dims.hidden, traits.intermediate, "input", Role::kUp)};
  op.gate_up[0].tie_group = op.gate_up[1].tie_group = moe + "gate_up";
  op.down = expert("down_proj", traits.intermediate, dims.hidden, "down_proj", Role::kDown);
  op.activation = common.activation;
  op.experts_per_token = traits.experts_per_token;
  op.normalize_weights = traits.normalize_weights;
  return Block{.pre = norm(prefix + "post_attention_layernorm", dims.hidden, dims.epsilon), .op = std::move(op), .post = {}};
}

Result<Activation> read_activation(const JsonReader& config, std::string_view fallback) {
  TQ_ASSIGN(const std::string act, config.string_or("hidden_act", fallback));
  TQ_ASSIGN(const std::string name, config.string_or("hidden_activation", act));
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGelu;
  return bad_input("{}: activation '{}' is not supported (silu, gelu, gelu_pytorch_tanh are)", config.where(), name);
}

}  // namespace tq
