#include "convert/hf_experts.h"

namespace tq {
namespace {

// The old single-letter names of Mixtral's experts.
std::string_view letter_name(std::string_view projection) {
  if (projection == "gate_proj") return "w1";
  if (projection == "up_proj") return "w3";
  return "w2";
}

PackedTensor stack_of(const Linear& linear) {
  PackedTensor stack;
  stack.shape = {linear.experts, linear.out, linear.in};
  return stack;
}

// A part an expert; of one expert alone, the whole stack.
void append(PackedTensor& stack, TensorView view, const std::shared_ptr<const void>& owner) {
  if (stack.shape[0] == 1) view.shape = stack.shape;
  stack.parts.push_back({"weight", std::move(view)});
  stack.owner = owner;
}

// experts.<e>.<projection>.weight, or the letters.
bool stack_separate(Model& model, const Linear& linear, const std::string& prefix, const std::string& projection) {
  PackedTensor stack = stack_of(linear);
  for (int64_t e = 0; e < linear.experts; ++e) {
    const PackedTensor* expert = model.find(fmt::format("{}{}.{}.weight", prefix, e, projection));
    if (!expert) expert = model.find(fmt::format("{}{}.{}.weight", prefix, e, letter_name(projection)));
    if (!expert || expert->shape != Shape{linear.out, linear.in}) return false;
    append(stack, expert->parts[0].view, expert->owner);
  }
  model.tensors.insert_or_assign(linear.name + ".weight", std::move(stack));
  return true;
}

// experts.gate_up_proj [E, 2 I, H] and experts.down_proj [E, H, I].
bool stack_fused(Model& model, const Linear& linear, const std::string& prefix, const std::string& projection) {
  const bool is_down = projection == "down_proj";
  const PackedTensor* fused = model.find(prefix + (is_down ? "down_proj" : "gate_up_proj"));
  if (!fused || fused->shape != Shape{linear.experts, is_down ? linear.out : 2 * linear.out, linear.in}) return false;
  const TensorView& all = fused->parts[0].view;
  const auto expert_bytes = static_cast<int64_t>(all.bytes()) / linear.experts;
  PackedTensor stack = stack_of(linear);
  for (int64_t e = 0; e < linear.experts; ++e) {
    const int64_t offset = e * expert_bytes + (projection == "up_proj" ? expert_bytes / 2 : 0);
    append(stack, TensorView{all.dtype, {linear.out, linear.in}, all.data + offset}, fused->owner);
  }
  model.tensors.insert_or_assign(linear.name + ".weight", std::move(stack));
  return true;
}

}  // namespace

std::string expert_name(const std::string& stack, int64_t expert) {
  const size_t dot = stack.rfind('.');
  const std::string prefix = stack.substr(0, dot + 1), projection = stack.substr(dot + 1);
  const bool is_mixtral = prefix.find(".block_sparse_moe.") != std::string::npos;
  return fmt::format("{}{}.{}", prefix, expert, is_mixtral ? letter_name(projection) : projection);
}

Status stack_experts(Model& model) {
  for (const Linear* linear : linears(model.spec)) {
    if (linear->experts == 0 || model.find(linear->name + ".weight")) continue;
    const size_t dot = linear->name.rfind('.');
    const std::string prefix = linear->name.substr(0, dot + 1), projection = linear->name.substr(dot + 1);
    if (!stack_separate(model, *linear, prefix, projection) && !stack_fused(model, *linear, prefix, projection))
      return bad_input("{}: the experts of {} are incomplete or of an unknown spelling", model.source, linear->name);
  }
  return {};
}

}  // namespace tq
