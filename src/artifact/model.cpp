#include "artifact/model.h"

#include <set>

#include "base/counted.h"

namespace tq {
namespace {

void want_linear(const Linear& linear, std::vector<WantedTensor>& out) {
  Shape weight = {linear.out, linear.in}, bias = {linear.out};
  if (linear.experts > 0) weight.insert(weight.begin(), linear.experts), bias.insert(bias.begin(), linear.experts);
  out.push_back({linear.name + ".weight", weight});
  if (linear.bias) out.push_back({linear.name + ".bias", bias});
}

void want_norm(const Norm& norm, std::vector<WantedTensor>& out) { out.push_back({norm.name + ".weight", {norm.width}}); }

}  // namespace

const PackedTensor* Model::find(const std::string& name) const {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

std::vector<WantedTensor> wanted_tensors(const ModelSpec& spec) {
  std::vector<WantedTensor> out;
  out.push_back({spec.embedding + ".weight", {spec.vocabulary, spec.hidden}});
  for (const auto& layer : spec.layers) {
    for (const Block& block : layer) {
      want_norm(block.pre, out);
      if (block.post) want_norm(*block.post, out);
      if (const auto* attention = std::get_if<Attention>(&block.op)) {
        if (attention->query_norm) want_norm(*attention->query_norm, out);
        if (attention->key_norm) want_norm(*attention->key_norm, out);
      }
      for (const Linear* linear : linears(block)) want_linear(*linear, out);
    }
  }
  want_norm(spec.final_norm, out);
  if (!spec.tied) want_linear(spec.head, out);
  return out;
}

std::vector<std::string> tensor_names(const ModelSpec& spec) {
  std::vector<std::string> names;
  for (const WantedTensor& wanted : wanted_tensors(spec)) names.push_back(wanted.name);
  return names;
}

Status check_model(const Model& model) {
  for (const WantedTensor& wanted : wanted_tensors(model.spec)) {
    const PackedTensor* tensor = model.find(wanted.name);
    if (!tensor) return bad_input("{}: tensor {} is missing", model.source, wanted.name);
    if (tensor->shape != wanted.shape)
      return bad_input("{}: tensor {} has the shape {}, the configuration asks for {}", model.source, wanted.name,
                       shape_text(tensor->shape), shape_text(wanted.shape));
    TQ_TRY(codec_of(tensor->codec).validate(*tensor, model.source + ": " + wanted.name));
  }
  return {};
}

WeightCounts count_weights(const ModelSpec& spec) {
  WeightCounts counts;
  for (const WantedTensor& wanted : wanted_tensors(spec)) counts.all += element_count(wanted.shape);
  for (const Linear* linear : linears(spec)) counts.linears += std::max<int64_t>(1, linear->experts) * linear->in * linear->out;
  return counts;
}

StoredBytes stored_bytes(const Model& model) {
  StoredBytes bytes;
  std::set<const std::byte*> shared;  // signs and taps, once each
  const auto add = [&](const std::string& name, bool is_linear) {
    const PackedTensor* tensor = model.find(name);
    if (!tensor) return;
    uint64_t size = tensor->bytes();
    for (const auto& part : tensor->parts)
      if ((part.name == "sign" || part.name.starts_with("taps.") || part.name.starts_with("e8p.")) && shared.insert(part.view.data).second)
        size += part.view.bytes();
    bytes.all += size;
    if (is_linear) bytes.linears += size;
  };
  std::set<std::string> linear_names;
  for (const Linear* linear : linears(model.spec)) linear_names.insert(linear->name + ".weight");
  for (const WantedTensor& wanted : wanted_tensors(model.spec)) add(wanted.name, linear_names.contains(wanted.name));
  return bytes;
}

std::string describe(const Model& model) {
  const ModelSpec& spec = model.spec;
  return fmt::format("{}, {} x {}, {:.1f} M weights", spec.family, counted(spec.layers_count(), "layer"), spec.hidden,
                     static_cast<double>(count_weights(spec).all) / 1e6);
}

}  // namespace tq
