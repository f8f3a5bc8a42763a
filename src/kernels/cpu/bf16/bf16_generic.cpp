#include <algorithm>
#include <bit>

#include "kernels/cpu/bf16/bf16_kernel.h"

namespace tq::cpu {
namespace {

constexpr int64_t kRows = 5, kColumns = 8;  // not what the others have

// To nearest, ties to even; in the upper half.
uint32_t rounded(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
}

// place(index, pair) within a panel.
template <typename Place>
void pack(const Bf16PackArgs& args, const Place& place) {
  for (int64_t i = 0; i < args.width; ++i)
    for (int64_t pair = 0; pair < bf16_steps(args.depth) * kBf16StepPairs; ++pair) {
      const auto value = [&](int64_t k) {
        return i < args.count && k < args.depth ? args.operand.values[i * args.operand.stride + k * args.operand.depth_stride] : 0.0f;
      };
      float early = value(2 * pair), late = value(2 * pair + 1);
      for (int term = 0; term < args.terms; ++term) {
        const uint32_t first = rounded(early), second = rounded(late);
        args.panel[term * args.term_stride + place(i, pair)] = first >> 16 | second;
        early -= std::bit_cast<float>(first), late -= std::bit_cast<float>(second);
      }
    }
}

void pack_left(const Bf16PackArgs& args) {
  pack(args,
       [&](int64_t row, int64_t pair) { return (pair / kBf16StepPairs * args.width + row) * kBf16StepPairs + pair % kBf16StepPairs; });
}

void pack_right(const Bf16PackArgs& args) {
  pack(args, [&](int64_t column, int64_t pair) { return pair * args.width + column; });
}

void multiply(const Bf16BlockArgs& args) {
  const auto early = [](uint32_t pair) { return std::bit_cast<float>(pair << 16); };
  const auto late = [](uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); };
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < kColumns; ++c) {
      float sum = 0;
      for (int64_t i = 0; i < args.panel_pairs; ++i)
        for (int64_t pair = 0; pair < args.steps * kBf16StepPairs; ++pair) {
          const uint32_t x = args.panels[i].left[(pair / kBf16StepPairs * kRows + r) * kBf16StepPairs + pair % kBf16StepPairs];
          const uint32_t y = args.panels[i].right[pair * kColumns + c];
          sum += early(x) * early(y) + late(x) * late(y);
        }
      float& out = args.output[r * args.output_stride + c];
      out = args.accumulate ? out + sum : sum;
    }
}

}  // namespace

const Bf16Kernel& generic_bf16_kernel() {
  static constexpr Bf16Kernel kKernel{.rows = kRows,
                                      .columns = kColumns,
                                      .float_terms = 0,
                                      .pack_left = pack_left,
                                      .pack_right = pack_right,
                                      .multiply = multiply,
                                      .begin = nullptr,
                                      .end = nullptr};
  return kKernel;
}

const Bf16Kernel* bf16_kernel([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAmx) return &amx_bf16_kernel();
  if (isa == Isa::kAvx512Bf16) return &avx512_bf16_kernel();
#endif
  return nullptr;
}

}  // namespace tq::cpu
