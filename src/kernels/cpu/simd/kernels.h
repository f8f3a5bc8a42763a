// The float kernels of one instruction set. The same source (kernels_simd.h) compiled three times; a table of pointers each.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "kernels/backend.h"

namespace tq::cpu {

constexpr int64_t kBandRows = 32;  // rows of W that the GEMM holds packed

// output[t, r] = sum_k input[t, k] packed[k, r] + bias[r] for r < rows. The order of the sum over k does not depend on anything else.
struct BandArgs {
  const float* input = nullptr;  // [T, C], rows input_stride apart
  int64_t input_stride = 0;
  const float* packed = nullptr;  // [C, kBandRows]
  const float* bias = nullptr;    // [rows] or null
  float* output = nullptr;        // [T, rows], rows output_stride apart
  int64_t output_stride = 0;
  int64_t tokens = 0, columns = 0, rows = 0;
};

// sums[t, r] += sum_k input[k, t] panel[k, r] for the kernel's tokens and panel rows.
struct PanelArgs {
  const float* input = nullptr;  // [C, tokens]
  const float* panel = nullptr;  // [C, panel_rows]
  float* sums = nullptr;         // [tokens, panel_rows]
  int64_t columns = 0;
};

struct FloatKernels {
  int64_t tokens;  // of a register block
  int64_t panel_rows;
  void (*multiply_panel)(const PanelArgs& args);
  // rows [n, C] (n <= panel_rows), row_stride apart -> panel [C, panel_rows], zeros behind n
  void (*pack_panel)(const float* rows, int64_t n, int64_t columns, int64_t row_stride, float* panel);
  void (*gemm_band)(const BandArgs& args);
  // rows [n, C] (n <= kBandRows), row_stride apart -> packed [C, kBandRows], zeros behind n
  void (*pack_band)(const float* rows, int64_t n, int64_t columns, int64_t row_stride, float* packed);
  float (*dot)(const float* a, const float* b, int64_t count);
  // y += scale * x
  void (*add_scaled)(float* y, const float* x, float scale, int64_t count);
  void (*norm)(const float* input, const float* weight, float offset, float epsilon, int64_t width, float* output);
  void (*gated)(GateKind kind, const float* gate, const float* up, float* output, int64_t count);
  // scores[count] -> their softmax, after score * scale and the softcap (0: none)
  void (*softmax)(float* scores, int64_t count, float scale, float softcap);
  // out[i] = exp(values[i] - shift), shift the largest of them; their sum, in double by parts. out may be values.
  double (*exponentials)(const float* values, float shift, int64_t count, float* out);
  void (*load_kv)(KvType type, const std::byte* row, int64_t head_dim, float* out);
  void (*store_kv)(KvType type, const float* values, int64_t head_dim, std::byte* row);
};

const FloatKernels& float_kernels(Isa isa);

}  // namespace tq::cpu
