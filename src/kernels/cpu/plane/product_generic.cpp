#include <cstring>

#include "codec/grid/layout.h"
#include "kernels/cpu/plane/product.h"

namespace tq::cpu {
namespace {

constexpr int64_t kLinesPerGroup = kGroupColumns / grid::kLineColumns;

// sum[16 j + lane] += S x over a group of lines.
void add_group(const uint8_t* bits, const int8_t* values, int64_t lines, int32_t* sum) {
  for (int64_t line = 0; line < lines; ++line) {
    for (int lane = 0; lane < 16; ++lane) {
      for (int column = 0; column < 4; ++column) {
        const uint8_t byte = bits[line * grid::kLineBytes + lane * 4 + column];
        const int32_t value = values[line * 4 + column];
        for (int j = 0; j < 8; ++j) sum[16 * j + lane] += (byte >> j & 1) * value;
      }
    }
  }
}

void add_block(const ProductArgs& args, int64_t block) {
  for (int s = 0; s < args.streams; ++s) {
    float* z = args.z[s] + block * grid::kLineRows;
    for (int64_t first = 0, group = 0; first < args.lines; first += kLinesPerGroup, ++group) {
      int32_t sum[grid::kLineRows] = {};
      const int64_t lines = args.lines - first < kLinesPerGroup ? args.lines - first : kLinesPerGroup;
      add_group(args.bits + (block * args.lines + first) * grid::kLineBytes, args.stream[s].values + first * 4, lines, sum);
      for (int64_t p = 0; p < grid::kLineRows; ++p) z[p] += args.stream[s].scale[group] * static_cast<float>(sum[p]);
    }
  }
}

}  // namespace

void product_generic(const ProductArgs& args) {
  for (int64_t block = 0; block < args.blocks; ++block) add_block(args, block);
}

#if defined(__x86_64__)
void product_avx2(const ProductArgs& args);
void product_avx512(const ProductArgs& args);
#endif
#if defined(__aarch64__)
void product_neon(const ProductArgs& args);
#endif

ProductKernel product_kernel(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return product_avx2;
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
    case Isa::kAmx: return product_avx512;
#endif
#if defined(__aarch64__)
    case Isa::kNeon: return product_neon;
#endif
    default: return product_generic;
  }
}

const char* product_kernel_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2: return "planes avx2 maddubs";
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
    case Isa::kAmx: return "planes avx512 vnni";
    case Isa::kNeon: return "planes neon sdot";
    default: return "planes generic";
  }
}

}  // namespace tq::cpu
