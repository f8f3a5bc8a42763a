// The small files of an artifact: configuration, record, model card.
#pragma once

#include <map>
#include <string>

#include "artifact/model.h"

namespace tq {

struct QuantizePlan;

// Everything but the weights: config.json, README.md, turboquant.json (with placeholders of the right length) and the carried files.
std::map<std::string, std::string> artifact_texts(const Model& model, const QuantizePlan& plan);

// turboquant.json. hashes: of the weight files, by name. errors: tr(E H E^T) / tr(W H W^T) of every quantized tensor, by name.
std::string record_text(const Model& model, const QuantizePlan& plan, const std::map<std::string, std::string>& hashes,
                        const std::map<std::string, double>& errors);

}  // namespace tq
