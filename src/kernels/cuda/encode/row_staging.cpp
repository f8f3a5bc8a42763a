#include "kernels/cuda/encode/row_staging.h"

#include <algorithm>

namespace tq::cuda {
namespace {

constexpr int64_t kBandFloats = int64_t{8} << 20, kBandRows = 32;  // of a region; rows that a thread block takes together

}  // namespace

RowStaging::~RowStaging() { close(); }

void RowStaging::close() {
  for (Region& region : regions_) {
    if (region.is_free) cudaEventDestroy(region.is_free);
    cudaFreeHost(region.host);
    cudaFree(region.device);
    region = {};
  }
  floats_ = 0;
}

cudaError_t RowStaging::open(int64_t floats) {
  if (floats <= floats_) return cudaSuccess;
  close();
  const auto bytes = static_cast<size_t>(floats) * sizeof(float);
  for (Region& region : regions_) {
    cudaError_t status = cudaHostAlloc(reinterpret_cast<void**>(&region.host), bytes, cudaHostAllocDefault);
    if (status == cudaSuccess) status = cudaMalloc(reinterpret_cast<void**>(&region.device), bytes);
    if (status == cudaSuccess) status = cudaEventCreateWithFlags(&region.is_free, cudaEventDisableTiming);
    if (status != cudaSuccess) {
      close();
      return status;
    }
  }
  floats_ = floats;
  return cudaSuccess;
}

cudaError_t RowStaging::run(int64_t rows, int64_t columns, const Read& read, const Use& use) {
  const int64_t band = std::max(kBandRows, kBandFloats / columns / kBandRows * kBandRows);
  if (const cudaError_t status = open(band * columns); status != cudaSuccess) return status;
  for (int64_t first = 0, turn = 0; first < rows; first += band, ++turn) {
    Region& region = regions_[turn % 2];
    const int64_t count = std::min(band, rows - first);
    if (const cudaError_t status = cudaEventSynchronize(region.is_free); status != cudaSuccess) return status;
    threads_.run(count, 8, [&](int64_t begin, int64_t end, int) { read(first + begin, end - begin, region.host + begin * columns); });
    const cudaError_t status = cudaMemcpyAsync(region.device, region.host, static_cast<size_t>(count * columns) * sizeof(float),
                                               cudaMemcpyHostToDevice, cudaStreamLegacy);
    if (status != cudaSuccess) return status;
    use(region.device, first, count);
    if (const cudaError_t recorded = cudaEventRecord(region.is_free, cudaStreamLegacy); recorded != cudaSuccess) return recorded;
  }
  return cudaSuccess;
}

}  // namespace tq::cuda
