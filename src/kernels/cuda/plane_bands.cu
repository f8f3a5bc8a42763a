// Launches of the product of planes whose bands are decoded in registers.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/plane_bands.cuh"

namespace tq::cuda {
namespace {

template <int kTokens>
struct Launch {
  static BandNeeds needs() { return {PlaneBands<kTokens>::kSharedBytes, PlaneBands<kTokens>::kMostRate}; }
  static void run(const BandArgs& args, cudaStream_t stream) {
    launch(&plane_bands_kernel<kTokens>, dim3(static_cast<unsigned>(args.split.blocks)), kBandThreads, PlaneBands<kTokens>::kSharedBytes,
           stream, args);
  }
};

}  // namespace

BandNeeds plane_bands_needs(int form) {
  switch (form) {
    case 32: return Launch<32>::needs();
    case 64: return Launch<64>::needs();
    case 96: return Launch<96>::needs();
    default: return Launch<128>::needs();
  }
}

void plane_bands(const BandArgs& args, cudaStream_t stream) {
  switch (args.form) {
    case 32: return Launch<32>::run(args, stream);
    case 64: return Launch<64>::run(args, stream);
    case 96: return Launch<96>::run(args, stream);
    default: return Launch<128>::run(args, stream);
  }
}

}  // namespace tq::cuda
