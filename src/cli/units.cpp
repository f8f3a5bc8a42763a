#include "cli/units.h"

#include <cmath>
#include <cstdlib>
#include <map>

namespace tq::cli {
namespace {

// The number at the front, and what stands behind it without spaces, in capitals.
bool split(const std::string& text, double& number, std::string& unit) {
  char* end = nullptr;
  number = std::strtod(text.c_str(), &end);
  if (end == text.c_str() || !std::isfinite(number) || number < 0) return false;
  for (; *end; ++end)
    if (*end != ' ') unit += static_cast<char>(std::toupper(static_cast<unsigned char>(*end)));
  return true;
}

}  // namespace

Result<uint64_t> parse_bytes(const std::string& text, const char* flag) {
  static const std::map<std::string, double> kUnits = {{"", 1},        {"K", 1e3},     {"M", 1e6},     {"G", 1e9},    {"T", 1e12},
                                                       {"KI", 0x1p10}, {"MI", 0x1p20}, {"GI", 0x1p30}, {"TI", 0x1p40}};
  double number = 0;
  std::string unit;
  if (split(text, number, unit)) {
    if (unit.ends_with('B')) unit.pop_back();
    if (const auto found = kUnits.find(unit); found != kUnits.end() && number * found->second < 0x1p62)
      return static_cast<uint64_t>(number * found->second);
  }
  return bad_usage("{} {}: give a size such as 35GB, 24GiB or 800MB", flag, text);
}

Result<int64_t> parse_tokens(const std::string& text, const char* flag) {
  double number = 0;
  std::string unit;
  if (split(text, number, unit) && (unit.empty() || unit == "K")) {
    number *= unit.empty() ? 1 : 1024;
    if (number >= 1 && number <= 0x1p28 && number == std::floor(number)) return static_cast<int64_t>(number);
  }
  return bad_usage("{} {}: give a number of tokens such as 4096 or 32k", flag, text);
}

Result<int> table_bits(const std::string& text, const char* flag) {
  if (text == "original") return 0;
  if (text.size() == 1 && text[0] >= '2' && text[0] <= '8') return text[0] - '0';
  return bad_usage("{} {}: give 2 to 8, or 'original'", flag, text);
}

}  // namespace tq::cli
