#include "convert/gguf_names.h"

#include <array>

#include <fmt/format.h>

namespace tq {
namespace {

struct Pair {
  std::string_view gguf, hf;
};

constexpr std::array kGlobal = {Pair{"token_embd", "model.embed_tokens"}, Pair{"output_norm", "model.norm"}, Pair{"output", "lm_head"}};

constexpr std::array kLayer = {
    Pair{"attn_norm", "input_layernorm"},    Pair{"attn_q", "self_attn.q_proj"},      Pair{"attn_k", "self_attn.k_proj"},
    Pair{"attn_v", "self_attn.v_proj"},      Pair{"attn_qkv", "self_attn.qkv_proj"},  Pair{"attn_output", "self_attn.o_proj"},
    Pair{"attn_q_norm", "self_attn.q_norm"}, Pair{"attn_k_norm", "self_attn.k_norm"}, Pair{"ffn_gate", "mlp.gate_proj"},
    Pair{"ffn_up", "mlp.up_proj"},           Pair{"ffn_down", "mlp.down_proj"},
};

// Where the norms around the feed-forward part stand differs between families of two and of four norms a layer.
constexpr std::array kTwoNorms = {Pair{"ffn_norm", "post_attention_layernorm"}};
constexpr std::array kFourNorms = {Pair{"post_attention_norm", "post_attention_layernorm"}, Pair{"ffn_norm", "pre_feedforward_layernorm"},
                                   Pair{"post_ffw_norm", "post_feedforward_layernorm"}};

constexpr std::array kMixture = {Pair{"ffn_gate_inp", "gate"}, Pair{"ffn_gate_exps", "experts.gate_proj"},
                                 Pair{"ffn_up_exps", "experts.up_proj"}, Pair{"ffn_down_exps", "experts.down_proj"}};

template <size_t N>
std::string_view look_up(const std::array<Pair, N>& pairs, std::string_view name) {
  for (const Pair& pair : pairs)
    if (pair.gguf == name) return pair.hf;
  return {};
}

std::string in_layer(std::string_view name, std::string_view model_type) {
  if (model_type == "phi3" && name == "ffn_up") return "mlp.gate_up_proj";
  if (const std::string_view hf = look_up(kLayer, name); !hf.empty()) return std::string(hf);
  if (const std::string_view hf = look_up(kMixture, name); !hf.empty())
    return fmt::format("{}.{}", model_type == "mixtral" ? "block_sparse_moe" : "mlp", hf);
  return std::string(model_type == "gemma3_text" ? look_up(kFourNorms, name) : look_up(kTwoNorms, name));
}

}  // namespace

std::optional<std::string> hf_name_of_gguf(std::string_view name, std::string_view model_type) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view kind = name.substr(dot + 1);
  if (kind != "weight" && kind != "bias") return std::nullopt;
  const std::string_view stem = name.substr(0, dot);
  if (const std::string_view hf = look_up(kGlobal, stem); !hf.empty()) return fmt::format("{}.{}", hf, kind);
  if (!stem.starts_with("blk.")) return std::nullopt;
  const size_t end = stem.find('.', 4);
  if (end == std::string_view::npos || end == 4) return std::nullopt;
  const std::string_view layer = stem.substr(4, end - 4);
  if (layer.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  const std::string hf = in_layer(stem.substr(end + 1), model_type);
  if (hf.empty()) return std::nullopt;
  return fmt::format("model.layers.{}.{}.{}", layer, hf, kind);
}

}  // namespace tq
