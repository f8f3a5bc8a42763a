// Model: the one type that everything big is a function of. A declaration, named tensors, a tokenizer.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "codec/codec.h"
#include "model/spec.h"

namespace tq {

class Tokenizer;

// A small file that travels with the model unchanged (tokenizer, template, licence).
struct CarriedFile {
  std::string name;
  std::string text;
};

struct Model {
  ModelSpec spec;
  Json config;                                  // config.json in Hugging Face's spelling
  std::map<std::string, PackedTensor> tensors;  // by Hugging Face name, e.g. "model.layers.0.mlp.up_proj.weight"; memory-mapped
  std::shared_ptr<const Tokenizer> tokenizer;   // null when the source has none
  std::string chat_template;                    // Jinja; empty when the source has none
  std::vector<CarriedFile> files;               // written out by save and convert
  std::string source;                           // the path it came from
  std::vector<std::string> source_parts;        // the paths of all files that it was read from; empty: of the source itself
  std::string format;                           // for people: "GGUF", "Hugging Face", "TurboQuant"
  uint64_t file_bytes = 0;                      // of the weight files

  const PackedTensor* find(const std::string& name) const;
};

// All tensors that a model of this spec has, in order of use.
struct WantedTensor {
  std::string name;
  Shape shape;
};
std::vector<WantedTensor> wanted_tensors(const ModelSpec& spec);
std::vector<std::string> tensor_names(const ModelSpec& spec);

// Every tensor that the spec asks for is there, has the shape it asks for and passes its codec's checks; no required one is missing.
// Errors: kBadInput with the first that is not.
Status check_model(const Model& model);

// "llama, 30 layers x 576, 134.5 M weights"
std::string describe(const Model& model);

// Number of weights of the linears of the layers, and of everything (a tied head counts once).
struct WeightCounts {
  int64_t linears = 0, all = 0;
};
WeightCounts count_weights(const ModelSpec& spec);

// What the tensors take, in bytes. `linears` are those of the layers.
struct StoredBytes {
  uint64_t linears = 0, all = 0;
};
StoredBytes stored_bytes(const Model& model);

}  // namespace tq
