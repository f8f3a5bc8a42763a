// What an artifact was made from, by content: the same wherever it lies and whenever it was written.
#pragma once

#include <string>
#include <vector>

#include "artifact/model.h"
#include "base/context.h"
#include "quantize/options.h"

namespace tq {

// XXH3 as 16 hexadecimal digits, as turboquant.json has them.
struct Origin {
  std::string source;                    // of configuration, tokenizer, the other files that travel with it, and weights
  std::vector<std::string> calibration;  // of every text; one for the built-in ones together
};

// Cheap for a source of any size: of an array beyond 64 KiB only some pieces, spread evenly over it, are read. So a model whose weights
// were trained further is another, one with a few changed rows may pass for the same.
Origin origin_of(const Model& model, const QuantizeOptions& options);

// The same length, where what is made is only measured.
Origin unknown_origin(const QuantizeOptions& options);

// That what a source which tq has quantized already lost stays lost.
void warn_of_quantized_source(const Model& model, Listener& listener);

}  // namespace tq
