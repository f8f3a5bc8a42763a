#include "model/spec.h"

namespace tq {
namespace {

void append(const Attention& op, std::vector<const Linear*>& out) {
  for (const Linear& linear : op.qkv) out.push_back(&linear);
  out.push_back(&op.output);
}

void append(const Mlp& op, std::vector<const Linear*>& out) {
  for (const Linear& linear : op.gate_up) out.push_back(&linear);
  out.push_back(&op.down);
}

void append(const Moe& op, std::vector<const Linear*>& out) {
  out.push_back(&op.router);
  for (const Linear& linear : op.gate_up) out.push_back(&linear);
  out.push_back(&op.down);
}

}  // namespace

std::vector<const Linear*> linears(const Block& block) {
  std::vector<const Linear*> out;
  std::visit([&](const auto& op) { append(op, out); }, block.op);
  return out;
}

std::vector<const Linear*> linears(const ModelSpec& spec) {
  std::vector<const Linear*> out;
  for (const auto& layer : spec.layers)
    for (const Block& block : layer)
      for (const Linear* linear : linears(block)) out.push_back(linear);
  return out;
}

}  // namespace tq
