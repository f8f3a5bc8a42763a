#include "artifact/reader.h"

#include <cstdint>
#include <filesystem>
#include <map>

#include "artifact/carried_files.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "codec/grid/layout.h"
#include "io/safetensors.h"
#include "model/family.h"

namespace tq {
namespace {

using safetensors::Archive;

// The largest block of the input rotation, which the format fixes.
constexpr int64_t kHadamardBlock = 256;
constexpr int64_t kRowScaleFormat = 2;  // from which on E8P vectors may have row scales
constexpr int64_t kOneBitFormat = 3;    // from which on ranges of rows may have one bit a weight

// The version of the format.
Result<int64_t> check_settings(const Json& config, const std::string& where) {
  const JsonReader settings(config["quantization_config"], where + " quantization_config");
  TQ_ASSIGN(const int64_t version, settings.integer("format", 1, 1 << 20));
  if (version > kFormatVersion)
    return bad_input("{}: it has format {}, this program reads up to {}; get a newer tq", where, version, kFormatVersion);
  TQ_TRY(settings.integer("hadamard_block", kHadamardBlock, kHadamardBlock));
  return version;
}

// A part of a grid tensor: one dimension, and an address that suits its type.
Result<PackedTensor::Part> grid_part(const Archive& archive, const std::string& prefix, const char* part, const std::string& where) {
  const TensorView* view = archive.find(prefix + "." + part);
  if (!view) return bad_input("{}: tensor {}.{} is missing", where, prefix, part);
  if (view->shape.size() != 1)
    return bad_input("{}: tensor {}.{} has the shape {}, one dimension was expected", where, prefix, part, shape_text(view->shape));
  if (reinterpret_cast<uintptr_t>(view->data) % dtype_size(view->dtype) != 0)
    return bad_input("{}: tensor {}.{} lies at an odd place for its type; quantize the model again", where, prefix, part);
  return PackedTensor::Part{part, *view};
}

Status check_rates(const TensorView& rates, int64_t version, const std::string& where) {
  if (rates.dtype != DType::kU8) return {};  // the codec's message
  for (int64_t i = 0; i < rates.count(); ++i) {
    const uint8_t rate = rates.as<uint8_t>()[i];
    if (rate < grid::kMinRate || rate > grid::kMaxRate)
      return bad_input("{}: range {} of rows has {} bits a weight, {} to {} were expected", where, i, rate, grid::kMinRate, grid::kMaxRate);
    if (rate == 1 && version < kOneBitFormat)
      return bad_input("{}: range {} of rows has one bit a weight, which is there from format {} on; config.json says {}", where, i,
                       kOneBitFormat, version);
  }
  return {};
}

// The tables of taps, which every grid tensor of the artifact shares.
Result<std::vector<PackedTensor::Part>> read_taps(const Archive& archive, const std::string& where) {
  std::vector<PackedTensor::Part> taps;
  for (const auto& each : archive.tensors()) {
    if (!each.name.starts_with("taps.")) continue;
    TQ_ASSIGN(PackedTensor::Part part, grid_part(archive, "taps", each.name.c_str() + 5, where));
    part.name = each.name;
    taps.push_back(std::move(part));
  }
  return taps;
}

// The grid tensor whose bits are `name`.bits.
Result<PackedTensor> grid_tensor(const Archive& archive, const Linear& linear, const std::vector<PackedTensor::Part>& taps, int64_t version,
                                 const std::string& where) {
  PackedTensor tensor;
  tensor.codec = CodecId::kGrid;
  for (const char* name : {"bits", "row_scale", "rates"}) {
    TQ_ASSIGN(PackedTensor::Part part, grid_part(archive, linear.name, name, where));
    tensor.parts.push_back(std::move(part));
  }
  TQ_TRY(check_rates(tensor.parts.back().view, version, where + ": tensor " + linear.name + ".rates"));
  if (archive.find(linear.name + ".activation_bits")) {
    TQ_ASSIGN(PackedTensor::Part precision, grid_part(archive, linear.name, "activation_bits", where));
    tensor.parts.push_back(std::move(precision));
  }
  TQ_ASSIGN(PackedTensor::Part sign, grid_part(archive, linear.tap, "sign", where));
  tensor.parts.push_back(std::move(sign));
  tensor.parts.insert(tensor.parts.end(), taps.begin(), taps.end());
  return tensor;
}

// Every ".weight" and ".bias" as it is.
void add_plain(const std::shared_ptr<const Archive>& archive, Model& model) {
  for (const auto& tensor : archive->tensors())
    if (tensor.name.ends_with(".weight") || tensor.name.ends_with(".bias"))
      model.tensors.emplace(tensor.name, plain_tensor(tensor.view, archive));
}

// All linears that can have bits, by name; of the embedding and a head tied to it the head, whose rotation it has.
std::map<std::string, Linear> possible_linears(const ModelSpec& spec) {
  std::map<std::string, Linear> out;
  for (const Linear* linear : linears(spec)) out.emplace(linear->name, *linear);
  out.emplace(spec.head.name, spec.head);
  out.emplace(spec.embedding,
              Linear{.name = spec.embedding, .in = spec.hidden, .out = spec.vocabulary, .bias = false, .tap = spec.embedding});
  return out;
}

// The scalar tensor whose codes are `name`.codes.
Result<PackedTensor> scalar_tensor(const Archive& archive, const Linear& linear, const std::string& where) {
  PackedTensor tensor;
  tensor.codec = CodecId::kScalar;
  for (const char* name : {"scalar", "codes", "scale", "zero"}) {
    TQ_ASSIGN(PackedTensor::Part part, grid_part(archive, linear.name, name, where));
    tensor.parts.push_back(std::move(part));
  }
  if (archive.find(linear.name + ".order")) {
    TQ_ASSIGN(PackedTensor::Part part, grid_part(archive, linear.name, "order", where));
    tensor.parts.push_back(std::move(part));
  }
  return tensor;
}

// The e8p tensor whose vectors are `name`.vectors.
Result<PackedTensor> e8p_tensor(const Archive& archive, const Linear& linear, int64_t version, const std::string& where) {
  PackedTensor tensor;
  tensor.codec = CodecId::kE8p;
  if (version < kRowScaleFormat && archive.find(linear.name + ".row_scale"))
    return bad_input("{}: tensor {}.row_scale: vectors have row scales from format {} on, config.json says {}", where, linear.name,
                     kRowScaleFormat, version);
  for (const char* name : {"vectors", "stage", "row_sign"}) {
    TQ_ASSIGN(PackedTensor::Part part, grid_part(archive, linear.name, name, where));
    tensor.parts.push_back(std::move(part));
  }
  for (const char* name : {"residual", "row_scale"}) {
    if (!archive.find(linear.name + "." + name)) continue;
    TQ_ASSIGN(PackedTensor::Part part, grid_part(archive, linear.name, name, where));
    tensor.parts.push_back(std::move(part));
  }
  TQ_ASSIGN(PackedTensor::Part sign, grid_part(archive, linear.tap, "sign", where));
  tensor.parts.push_back(std::move(sign));
  for (const char* name : {"absolute", "residual"}) {
    TQ_ASSIGN(PackedTensor::Part table, grid_part(archive, "e8p", name, where));
    table.name = std::string("e8p.") + name;
    tensor.parts.push_back(std::move(table));
  }
  return tensor;
}

// Every ".bits", ".codes" and ".vectors" with what belongs to it.
Status add_coded(const std::shared_ptr<const Archive>& archive, int64_t version, Model& model) {
  const std::map<std::string, Linear> possible = possible_linears(model.spec);
  TQ_ASSIGN(const std::vector<PackedTensor::Part> taps, read_taps(*archive, model.source));
  for (const auto& each : archive->tensors()) {
    const size_t dot = each.name.rfind('.');
    const std::string kind = dot == std::string::npos ? "" : each.name.substr(dot + 1);
    if (kind != "bits" && kind != "codes" && kind != "vectors") continue;
    const auto linear = possible.find(each.name.substr(0, dot));
    if (linear == possible.end()) return bad_input("{}: tensor {}: the model of config.json has no such linear", model.source, each.name);
    TQ_ASSIGN(PackedTensor tensor, kind == "bits"    ? grid_tensor(*archive, linear->second, taps, version, model.source)
                                   : kind == "codes" ? scalar_tensor(*archive, linear->second, model.source)
                                                     : e8p_tensor(*archive, linear->second, version, model.source));
    tensor.shape = {linear->second.out, linear->second.in};
    if (linear->second.experts > 0) tensor.shape.insert(tensor.shape.begin(), linear->second.experts);
    tensor.owner = archive;
    if (!model.tensors.emplace(linear->first + ".weight", std::move(tensor)).second)
      return bad_input("{}: {} is there twice, as .{} and as another", model.source, linear->first, kind);
  }
  return {};
}

// The hash that the record has for a file of the artifact, compared with its content.
Status verify_file(const std::string& directory, const std::string& name, const Json& expected, const std::string& where) {
  if (name.find_first_of("/\\") != std::string::npos || !expected.is_string())
    return bad_input("{}: 'files' has the entry '{}', which makes no sense", where, name);
  TQ_ASSIGN(const std::shared_ptr<const MappedFile> file, MappedFile::open(directory + "/" + name));
  if (hex64(hash64(file->bytes())) != expected.get<std::string>())
    return bad_input("{}/{}: its content is not what was written; copy the artifact again", directory, name);
  return {};
}

}  // namespace

Result<Model> artifact_model(Json config, const std::shared_ptr<const safetensors::Archive>& archive, const std::string& source) {
  Model model;
  model.source = source;
  model.format = "TurboQuant";
  model.config = std::move(config);
  const std::string where = source + "/config.json";
  if (!is_artifact(model.config)) return bad_input("{}: not a TurboQuant artifact", source);
  TQ_ASSIGN(const int64_t version, check_settings(model.config, where));
  TQ_ASSIGN(model.spec, parse_config(model.config, where));
  model.file_bytes = archive->file_bytes();
  add_plain(archive, model);
  TQ_TRY(add_coded(archive, version, model));
  TQ_TRY(check_model(model));
  return model;
}

Result<Model> read_artifact(const std::string& directory) {
  TQ_ASSIGN(Json config, read_json_file(directory + "/config.json"));
  if (!is_artifact(config)) return bad_input("{}: not a TurboQuant artifact", directory);
  TQ_TRY(check_settings(config, directory + "/config.json"));
  TQ_ASSIGN(const std::shared_ptr<const Archive> archive, Archive::open_directory(directory));
  TQ_ASSIGN(Model model, artifact_model(std::move(config), archive, directory));
  model.source_parts = archive->files();
  model.source_parts.push_back(directory + "/config.json");
  TQ_TRY(read_carried_files(directory, model));
  return model;
}

Status verify_artifact(const std::string& directory) {
  const std::string where = directory + "/turboquant.json";
  TQ_ASSIGN(const Json record, read_json_file(where));
  const auto files = record.find("files");
  if (files == record.end() || !files->is_object()) return bad_input("{}: no list of files in it", where);
  TQ_ASSIGN(const std::shared_ptr<const Archive> archive, Archive::open_directory(directory));
  std::vector<std::string> needed;
  for (const std::string& path : archive->files()) needed.push_back(std::filesystem::path(path).filename().string());
  if (needed[0] != "model.safetensors") needed.emplace_back("model.safetensors.index.json");
  for (const std::string& name : needed)
    if (!files->contains(name)) return bad_input("{}: 'files' has no hash of {}", where, name);
  for (const auto& [name, expected] : files->items()) TQ_TRY(verify_file(directory, name, expected, where));
  return {};
}

}  // namespace tq
