// Tensor names of GGUF and where they stand in a model.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tq {

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; nothing for tensors that a model does not read.
// model_type: the configuration's; Phi-3's gate_up_proj lies under ffn_up.
std::optional<std::string> hf_name_of_gguf(std::string_view name, std::string_view model_type);

}  // namespace tq
