// One backend of several: each has a part of the rows of every matrix and of the heads of attention (docs/kernels.md, "Several GPUs").
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/split/peers.h"

namespace tq {

// name: of all of them together. The parts are alike; nobody else may use them. Its memory is not the host's, even where theirs is.
std::unique_ptr<Backend> make_split_backend(std::string name, std::vector<std::unique_ptr<Backend>> parts, std::unique_ptr<Peers> peers);

// The simple way: each has whole layers, as Backend::enter_depth says which, and hidden states go from one to the next. Keys and values
// take memory of every part.
std::unique_ptr<Backend> make_layer_backend(std::string name, std::vector<std::unique_ptr<Backend>> parts, std::unique_ptr<Peers> peers);

enum class SplitBy : uint8_t { kRows, kLayers };

}  // namespace tq
