#include "artifact/reader.h"

#include <algorithm>

#include "artifact/carried_files.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "io/safetensors.h"
#include "model/family.h"

namespace tq {
namespace {

using safetensors::Archive;

Status check_version(const Json& config, const std::string& where) {
  const JsonReader settings(config["quantization_config"], where + " quantization_config");
  TQ_ASSIGN(const int64_t version, settings.integer("format", 1, 1 << 20));
  if (version > kFormatVersion)
    return bad_input("{}: it has format {}, this program reads up to {}; get a newer tq", where, version, kFormatVersion);
  return {};
}

// The parts of the grid tensor whose bits are `name`.bits.
Result<PackedTensor> grid_tensor(const Archive& archive, const Linear& linear, const std::string& where) {
  PackedTensor tensor;
  tensor.codec = CodecId::kGrid;
  tensor.shape = {linear.out, linear.in};
  if (linear.experts > 0) tensor.shape.insert(tensor.shape.begin(), linear.experts);
  for (const char* part : {"bits", "row_scale", "rates"}) {
    const TensorView* view = archive.find(linear.name + "." + part);
    if (!view) return bad_input("{}: tensor {}.{} is missing", where, linear.name, part);
    tensor.parts.push_back({part, *view});
  }
  const TensorView* sign = archive.find(linear.tap + ".sign");
  if (!sign) return bad_input("{}: tensor {}.sign is missing", where, linear.tap);
  tensor.parts.push_back({"sign", *sign});
  for (const auto& each : archive.tensors())
    if (each.name.starts_with("taps.")) tensor.parts.push_back({each.name, each.view});
  return tensor;
}

Status add_linear(const std::shared_ptr<const Archive>& archive, const Linear& linear, Model& model) {
  if (!archive->find(linear.name + ".bits") || model.find(linear.name + ".weight")) return {};
  TQ_ASSIGN(PackedTensor tensor, grid_tensor(*archive, linear, model.source));
  tensor.owner = archive;
  model.tensors.emplace(linear.name + ".weight", std::move(tensor));
  return {};
}

}  // namespace

Result<Model> read_artifact(const std::string& directory) {
  Model model;
  model.source = directory;
  model.format = "TurboQuant";
  TQ_ASSIGN(model.config, read_json_file(directory + "/config.json"));
  const std::string where = directory + "/config.json";
  if (!is_artifact(model.config)) return bad_input("{}: not a TurboQuant artifact", directory);
  TQ_TRY(check_version(model.config, where));
  TQ_ASSIGN(model.spec, parse_config(model.config, where));
  TQ_ASSIGN(const std::shared_ptr<const Archive> archive, Archive::open_directory(directory));
  model.file_bytes = archive->file_bytes();
  for (const auto& tensor : archive->tensors())
    if (tensor.name.ends_with(".weight") || tensor.name.ends_with(".bias"))
      model.tensors.emplace(tensor.name, plain_tensor(tensor.view, archive));
  for (const Linear* linear : linears(model.spec)) TQ_TRY(add_linear(archive, *linear, model));
  TQ_TRY(add_linear(archive, model.spec.head, model));
  const Linear embedding{
      .name = model.spec.embedding, .in = model.spec.hidden, .out = model.spec.vocabulary, .bias = false, .tap = model.spec.embedding};
  TQ_TRY(add_linear(archive, embedding, model));
  TQ_TRY(read_carried_files(directory, model));
  TQ_TRY(check_model(model));
  return model;
}

Status verify_artifact(const std::string& directory) {
  const std::string where = directory + "/turboquant.json";
  TQ_ASSIGN(const Json record, read_json_file(where));
  const auto files = record.find("files");
  if (files == record.end() || !files->is_object()) return bad_input("{}: no list of files in it", where);
  for (const auto& [name, expected] : files->items()) {
    if (name.find('/') != std::string::npos || !expected.is_string()) return bad_input("{}: the entry '{}' makes no sense", where, name);
    TQ_ASSIGN(const std::shared_ptr<const MappedFile> file, MappedFile::open(directory + "/" + name));
    if (hex64(hash64(file->bytes())) != expected.get<std::string>())
      return bad_input("{}/{}: its content is not what was written; copy the artifact again", directory, name);
  }
  return {};
}

}  // namespace tq
