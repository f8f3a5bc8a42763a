// Portable kernels of the encoder.
#include "codec/grid/encoder_simd.h"

namespace tq::grid {

const Kernel& generic_kernel() {
  static constexpr Kernel kKernel{0, forward<ScalarVector, ScalarVector>, trace<ScalarVector, ScalarVector>,
                                  normalise<ScalarVector, ScalarVector>};
  return kKernel;
}

}  // namespace tq::grid
