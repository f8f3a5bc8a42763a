// JSON to write. What is no UTF-8, such as the name of a file, becomes replacement characters.
#pragma once

#include <string>

#include "base/json.h"

namespace tq {

// indent: spaces a level; negative: all on one line.
inline std::string json_text(const Json& json, int indent = -1) { return json.dump(indent, ' ', false, Json::error_handler_t::replace); }

}  // namespace tq
