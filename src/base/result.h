// Result<T>: how everything that can fail because of a file, a flag, a request or the machine reports it.
#pragma once

#include <string>
#include <utility>

#include <fmt/core.h>
#include <tl/expected.hpp>

namespace tq {

// Each code is one exit status of the program (architecture: command line).
enum class ErrorCode {
  kFailed = 1,       // the work could not be done
  kUsage = 2,        // a flag, an argument or a value of the caller's is wrong
  kBadInput = 3,     // a file is damaged, unsupported or not what it says
  kNoResource = 4,   // not enough memory or disk
  kInterrupted = 5,  // stopped by the user; the work can be resumed
};

// One line for a person: what was wrong, where, and what to do about it.
struct Error {
  ErrorCode code = ErrorCode::kFailed;
  std::string message;
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

using Unexpected = tl::unexpected<Error>;

template <typename... Args>
[[nodiscard]] Unexpected fail(ErrorCode code, fmt::format_string<Args...> text, Args&&... args) {
  return Unexpected(Error{code, fmt::format(text, std::forward<Args>(args)...)});
}

template <typename... Args>
[[nodiscard]] Unexpected bad_input(fmt::format_string<Args...> text, Args&&... args) {
  return Unexpected(Error{ErrorCode::kBadInput, fmt::format(text, std::forward<Args>(args)...)});
}

template <typename... Args>
[[nodiscard]] Unexpected bad_usage(fmt::format_string<Args...> text, Args&&... args) {
  return Unexpected(Error{ErrorCode::kUsage, fmt::format(text, std::forward<Args>(args)...)});
}

}  // namespace tq

#define TQ_CONCAT_INNER(a, b) a##b
#define TQ_CONCAT(a, b) TQ_CONCAT_INNER(a, b)

// TQ_TRY(expression): returns its error from the enclosing function, if it has one.
#define TQ_TRY(...)                                          \
  do {                                                       \
    auto tq_status = (__VA_ARGS__);                          \
    if (!tq_status) [[unlikely]]                             \
      return ::tq::Unexpected(std::move(tq_status).error()); \
  } while (false)

// TQ_ASSIGN(declaration, expression): the same, and binds the value otherwise.
#define TQ_ASSIGN(declaration, ...) TQ_ASSIGN_NAMED(TQ_CONCAT(tq_result_, __LINE__), declaration, __VA_ARGS__)
#define TQ_ASSIGN_NAMED(name, declaration, ...)       \
  auto name = (__VA_ARGS__);                          \
  if (!name) [[unlikely]]                             \
    return ::tq::Unexpected(std::move(name).error()); \
  declaration = std::move(*name)
