// The checks of flags that are numbers.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <string>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

namespace tq::cli {

// A number that is not negative and that `parse`, strtoll or strtoull, has room for.
template <typename Number>
CLI::Validator number_within(Number (*parse)(const char*, char**, int), const char* too_large, const char* name) {
  return {[parse, too_large](std::string& text) {
            if (text.starts_with('-')) return text + " is less than 0";
            errno = 0;
            parse(text.c_str(), nullptr, 0);
            return errno == ERANGE ? text + too_large : std::string();
          },
          name};
}

// CLI11's own names the largest number there is, in 300 digits, and takes what is too large for that one.
inline CLI::Validator at_least_zero() { return number_within(std::strtoll, " is too large", "NONNEGATIVE"); }

// A number from `least` to `most`. CLI11's own takes what is none ("nan"), which is neither below nor above anything.
inline CLI::Validator number_in(double least, double most) {
  return {[least, most](std::string& text) {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            const bool is_number = end != text.c_str() && *end == '\0';
            return is_number && value >= least && value <= most ? std::string() : fmt::format("{} is not from {} to {}", text, least, most);
          },
          fmt::format("in [{} - {}]", least, most)};
}

// Any number of 64 bits.
inline CLI::Validator seed_number() { return number_within(std::strtoull, " is too large: give a number below 2^64", "SEED"); }

}  // namespace tq::cli
