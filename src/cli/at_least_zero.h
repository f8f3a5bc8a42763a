// The checks of flags that count something, and of seeds.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <string>

#include <CLI/CLI.hpp>

namespace tq::cli {

// CLI11's own names the largest number there is, in 300 digits, and takes what is too large for that one.
inline CLI::Validator at_least_zero() {
  return {[](std::string& text) {
            if (text.starts_with('-')) return text + " is less than 0";
            errno = 0;
            std::strtoll(text.c_str(), nullptr, 0);
            return errno == ERANGE ? text + " is too large" : std::string();
          },
          "NONNEGATIVE"};
}

// Any number of 64 bits.
inline CLI::Validator seed_number() {
  return {[](std::string& text) {
            if (text.starts_with('-')) return text + " is less than 0";
            errno = 0;
            std::strtoull(text.c_str(), nullptr, 0);
            return errno == ERANGE ? text + " is too large: give a number below 2^64" : std::string();
          },
          "SEED"};
}

}  // namespace tq::cli
