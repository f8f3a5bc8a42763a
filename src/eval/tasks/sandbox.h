// Runs a Python program that nobody has read.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace tq {

struct SandboxLimits {
  double seconds = 10;
  uint64_t memory_bytes = uint64_t{1} << 30;
  uint64_t file_bytes = uint64_t{16} << 20;
};

struct SandboxResult {
  bool passed = false;  // it ended by itself, with status 0
  bool timed_out = false;
  bool isolated = false;  // in name spaces of its own: without a network, its processes end with it
};

// In an empty folder that is removed afterwards, with limits on time, memory and files, without input, output or environment, in a name
// space without a network where the system lets an ordinary user make one. Its process group is killed at the end whatever happens.
// It is no wall against an attacker: the program can read what the user can read.
// Errors: kFailed when there is no python3 or no process can be started.
Result<SandboxResult> run_python(const std::string& program, const SandboxLimits& limits);

}  // namespace tq
