// Compiled for the tiles of AMX; called only where the processor has them and Linux was asked (base/cpu.h).
#if defined(__x86_64__)
#include "kernels/cpu/bf16/bf16_kernel.h"
#include "kernels/cpu/simd/amx_tiles.h"

namespace tq::cpu {
namespace {

constexpr int64_t kEdge = 32;      // of a block: two tiles
constexpr int64_t kTileRows = 16;  // of 64 bytes: 16 floats of the output, 16 pairs of the operands

// Tiles 0 to 3 are sums, 4 and 5 of the left operand, 6 and 7 of the right one.
void store_sums(float* output, int64_t stride) {
  const auto bytes = static_cast<size_t>(stride) * sizeof(float);
  _tile_stored(0, output, bytes);
  _tile_stored(1, output + kTileRows, bytes);
  _tile_stored(2, output + kTileRows * stride, bytes);
  _tile_stored(3, output + kTileRows * stride + kTileRows, bytes);
}

void add_sums(float* output, int64_t stride) {
  alignas(64) float sums[kEdge * kEdge];
  store_sums(sums, kEdge);
  for (int64_t r = 0; r < kEdge; ++r)
    for (int64_t c = 0; c < kEdge; c += 16) {
      float* out = output + r * stride + c;
      _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), _mm512_load_ps(sums + r * kEdge + c)));
    }
}

void multiply(const Bf16BlockArgs& args) {
  for (int64_t r = 0; r < kEdge; ++r)  // while the sums are made: the output comes from memory more often than not
    for (int64_t c = 0; c < kEdge; c += 16) __builtin_prefetch(args.output + r * args.output_stride + c, 1, 3);
  _tile_zero(0), _tile_zero(1), _tile_zero(2), _tile_zero(3);
  // All pairs of a step: the panels of a float's terms are read once from the second-level cache.
  for (int64_t step = 0; step < args.steps; ++step)
    for (int64_t i = 0; i < args.panel_pairs; ++i) {
      const uint32_t* left = args.panels[i].left + step * kEdge * kBf16StepPairs;
      const uint32_t* right = args.panels[i].right + step * kEdge * kBf16StepPairs;
      _tile_loadd(4, left, 64);
      _tile_loadd(6, right, kEdge * 4);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, right + kTileRows, kEdge * 4);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, left + kTileRows * kBf16StepPairs, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  if (args.accumulate) add_sums(args.output, args.output_stride);
  else store_sums(args.output, args.output_stride);
}

}  // namespace

const Bf16Kernel& amx_bf16_kernel() {
  static constexpr Bf16Kernel kKernel{.rows = kEdge,
                                      .columns = kEdge,
                                      .float_terms = 2,
                                      .pack_left = pack_left_avx512,
                                      .pack_right = pack_right_avx512,
                                      .multiply = multiply,
                                      .begin = begin_tiles,
                                      .end = end_tiles};
  return kKernel;
}

}  // namespace tq::cpu
#endif
