// BLAS on one thread: the program's own threads call it side by side, and results must not depend on how many there are.
#pragma once

#include <cblas.h>

namespace tq {

// Call before using BLAS; cheap. OpenBLAS knows no other way than a setting of the whole process. (Its build without threads is no
// alternative: calls from two threads at once corrupt each other's buffers there.)
inline void use_one_blas_thread() {
  static const bool kDone = [] {
    openblas_set_num_threads(1);
    return true;
  }();
  (void)kDone;
}

}  // namespace tq
