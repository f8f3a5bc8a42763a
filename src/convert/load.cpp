#include <filesystem>

#include "artifact/reader.h"
#include "convert/import.h"

namespace tq {

namespace fs = std::filesystem;

Result<Model> load_model(const std::string& path) {
  std::error_code error;
  if (path.ends_with(".safetensors") && fs::is_regular_file(path, error))
    return bad_input("{}: the weights alone; give the directory that they are in, with its config.json", path);
  if (fs::is_regular_file(path, error)) return import_gguf(path);
  if (!fs::is_directory(path, error)) {
    if (path.find('/') != std::string::npos && path.find('/') == path.rfind('/') && path[0] != '.' && path[0] != '/')
      return bad_input("{}: no such file or directory (models are not downloaded by name yet; fetch it first and give its folder)", path);
    if (fs::exists(path, error)) return bad_input("{}: neither a file nor a directory, but models are read in any order", path);
    return bad_input("{}: no such file or directory; give a GGUF file, a Hugging Face directory or a TurboQuant artifact", path);
  }
  if (!fs::is_regular_file(path + "/config.json", error))
    return bad_input("{}: no config.json in it; give a GGUF file, a Hugging Face directory or a TurboQuant artifact", path);
  TQ_ASSIGN(const Json config, read_json_file(path + "/config.json"));
  return is_artifact(config) ? read_artifact(path) : import_hf(path);
}

}  // namespace tq
