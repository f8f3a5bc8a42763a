#include "artifact/carried_files.h"
#include "convert/hf_experts.h"
#include "convert/import.h"
#include "io/safetensors.h"
#include "model/family.h"
#include "model/wrapper.h"

namespace tq {
namespace {

// Multimodal wrappers keep the language model under a prefix; the plain name is what the declaration knows.
std::string plain_name(std::string name) {
  constexpr std::string_view kWrapped = "model.language_model.", kOldWrapped = "language_model.";
  if (name.starts_with(kWrapped)) return "model." + name.substr(kWrapped.size());
  if (name.starts_with(kOldWrapped)) return name.substr(kOldWrapped.size());
  return name;
}

}  // namespace

Result<Model> import_hf(const std::string& directory) {
  Model model;
  model.source = directory;
  model.format = "Hugging Face";
  TQ_ASSIGN(const Json config, read_json_file(directory + "/config.json"));
  if (const JsonReader reader(config, directory + "/config.json"); const Json* quantization = reader.find("quantization_config")) {
    const JsonReader settings(*quantization, reader.where());
    return bad_input("{}: it is quantized already ({}); give the original model", directory,
                     settings.string_or("quant_method", "unknown method").value_or("unknown method"));
  }
  model.config = language_config(config);
  TQ_ASSIGN(model.spec, parse_config(model.config, directory + "/config.json"));
  TQ_ASSIGN(const std::shared_ptr<const safetensors::Archive> archive, safetensors::Archive::open_directory(directory));
  model.file_bytes = archive->file_bytes();
  model.source_parts = archive->files();
  model.source_parts.push_back(directory + "/config.json");
  for (const safetensors::Tensor& tensor : archive->tensors())
    model.tensors.emplace(plain_name(tensor.name), plain_tensor(tensor.view, archive));
  TQ_TRY(stack_experts(model));
  TQ_TRY(read_carried_files(directory, model));
  TQ_TRY(check_model(model));
  return model;
}

}  // namespace tq
