// OpenBLAS starts a thread for every processor before main, none of which the program uses (base/blas.h), and waits forever for those that a
// limit of memory forbids. So it is told not to, before any library begins.
#include <cstdlib>

namespace {

void want_one_blas_thread(int, char**, char**) { setenv("OPENBLAS_NUM_THREADS", "1", 1); }

[[gnu::section(".preinit_array"), gnu::used]] void (*const kBeforeLibraries)(int, char**, char**) = want_one_blas_thread;

}  // namespace
