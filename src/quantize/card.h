// The small files of an artifact: configuration, record, model card.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "artifact/model.h"
#include "quantize/origin.h"
#include "quantize/step_file.h"

namespace tq {

// Everything but the weights: config.json, README.md, turboquant.json (with placeholders of the right length) and the carried files.
std::map<std::string, std::string> artifact_texts(const Model& model, const QuantizePlan& plan);

// turboquant.json, with the mean rate of every quantized tensor.
struct RecordFacts {
  std::map<std::string, std::string> hashes;  // of the weight files, by name
  StepFacts steps;
  double untuned = 0, tuned = 0;      // KL on held-out text before and after the tuning
  std::optional<Origin> origin = {};  // none: a placeholder of the same length
};
std::string record_text(const Model& model, const QuantizePlan& plan, const RecordFacts& facts);

// Of report.html: what the page may take at most, which it is filled up to.
uint64_t report_bytes(const QuantizePlan& plan);

}  // namespace tq
