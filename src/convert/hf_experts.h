// Spellings of stacked experts in Hugging Face checkpoints.
#pragma once

#include "artifact/model.h"

namespace tq {

// Mixtures: turns experts.<e>.gate_proj.weight, block_sparse_moe.experts.<e>.w1.weight and the fused experts.gate_up_proj of the
// newest transformers into the stacks that the declaration names. Nothing is copied: a stack has one part per expert.
Status stack_experts(Model& model);

// Of expert `expert` of a stack "….experts.gate_proj", as transformers writes it: Mixtral's have letters.
std::string expert_name(const std::string& stack, int64_t expert);

}  // namespace tq
