// Checks for programmer errors. Input errors are Result values (result.h).
#pragma once

namespace tq {

// Prints the failed condition to stderr and aborts. The library's only exit, and only for a bug in it or in its caller.
[[noreturn]] void check_failed(const char* condition, const char* file, int line);

}  // namespace tq

#define TQ_CHECK(condition)                               \
  do {                                                    \
    if (!(condition)) [[unlikely]]                        \
      ::tq::check_failed(#condition, __FILE__, __LINE__); \
  } while (false)
