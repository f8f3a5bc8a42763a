// OpenBLAS starts a thread for every processor before main, none of which the program uses (base/blas.h), and waits forever for those that
// a limit of memory forbids. So it is told not to, by what runs before its own beginning: of equal priority the program's objects come
// first.
#include <cstdlib>

namespace {

[[gnu::constructor(101)]] void want_one_blas_thread() { setenv("OPENBLAS_NUM_THREADS", "1", 1); }

}  // namespace
