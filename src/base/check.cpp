#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace tq {

void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "turboquant: internal error: check '%s' failed at %s:%d\n", condition, file, line);
  std::abort();
}

}  // namespace tq
