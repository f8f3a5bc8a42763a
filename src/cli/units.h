// Numbers with units, as flags give them.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace tq::cli {

// "35GB", "24 GiB", "1.5e9", "800M": decimal units unless an i stands in them; the B may be left out. Errors: kUsage, naming the flag.
Result<uint64_t> parse_bytes(const std::string& text, const char* flag);
// "4096", "32k" (thousands of 1024): tokens.
Result<int64_t> parse_tokens(const std::string& text, const char* flag);
// "2" to "8" bits of the embedding or the head; 0 for "original".
Result<int> table_bits(const std::string& text, const char* flag);

}  // namespace tq::cli
