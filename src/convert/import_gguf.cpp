#include "convert/gguf_config.h"
#include "convert/gguf_names.h"
#include "convert/gguf_vocabulary.h"
#include "convert/import.h"
#include "io/gguf.h"
#include "model/family.h"
#include "tensor/ggml_types.h"

namespace tq {
namespace {

// llama.cpp's converter interleaves the halves of the query and key heads of Llama and Mistral models.
bool is_interleaved(std::string_view architecture, std::string_view name) {
  return architecture == "llama" && (name.find(".attn_q.") != std::string_view::npos || name.find(".attn_k.") != std::string_view::npos);
}

// Plain types become plain tensors, so that every reader of those serves them too.
PackedTensor pack(const gguf::Tensor& source, std::shared_ptr<const gguf::File> file) {
  const GgmlType* type = ggml_type(source.type);
  TQ_CHECK(type != nullptr);
  const std::optional<DType> plain = dtype_from_name(type->name);
  if (plain) return plain_tensor(TensorView{*plain, source.shape, source.data}, std::move(file));
  PackedTensor tensor;
  tensor.codec = CodecId::kGgml;
  tensor.variant = source.type;
  tensor.shape = source.shape;
  tensor.parts.push_back({"blocks", TensorView{DType::kU8, {static_cast<int64_t>(source.bytes)}, source.data}});
  tensor.owner = std::move(file);
  return tensor;
}

}  // namespace

Result<Model> import_gguf(const std::string& path) {
  TQ_ASSIGN(const std::shared_ptr<const gguf::File> file, gguf::File::open(path));
  return gguf_model(file, path);
}

Result<Model> gguf_model(const std::shared_ptr<const gguf::File>& file, const std::string& path) {
  Model model;
  model.source = path;
  if (std::vector<std::string> parts = file->paths(); parts.size() > 1) model.source_parts = std::move(parts);
  model.format = "GGUF";
  model.file_bytes = file->file_bytes();
  TQ_ASSIGN(model.config, config_of_gguf(*file));
  TQ_ASSIGN(model.spec, parse_config(model.config, path));
  TQ_ASSIGN(const std::string architecture, file->string("general.architecture"));
  const auto model_type = model.config["model_type"].get<std::string>();
  const auto head_dim = model.config["head_dim"].get<int64_t>();
  for (const gguf::Tensor& source : file->tensors()) {
    const std::optional<std::string> name = hf_name_of_gguf(source.name, model_type);
    if (!name) continue;
    PackedTensor tensor = pack(source, file);
    if (is_interleaved(architecture, source.name)) tensor.interleaved_head_dim = head_dim;
    if (model_type == "gemma3_text" && source.name.find("norm.") != std::string::npos) tensor.offset = -1.0f;
    model.tensors.emplace(*name, std::move(tensor));
  }
  TQ_TRY(read_gguf_vocabulary(*file, model));
  TQ_TRY(check_model(model));
  return model;
}

}  // namespace tq
