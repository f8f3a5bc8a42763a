// Lists that flags give in one word.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

namespace tq::cli {

// What stands between the commas, which may be nothing: "2,3" is 2 and 3, "2," is 2 and an empty text, an empty text is itself.
inline std::vector<std::string> split_at_commas(const std::string& text) {
  std::vector<std::string> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

}  // namespace tq::cli
