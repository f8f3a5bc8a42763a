// The kernels of the CUDA backend: every function enqueues on the stream. Pointers are the device's.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/dense_args.h"
#include "kernels/cuda/gather_args.h"
#include "kernels/cuda/plane_plan.h"

namespace tq::cuda {

void norm(const float* input, const float* weight, float* output, int64_t count, int width, float epsilon, float offset,
          cudaStream_t stream);
// The input of a product after its prologue, as float and / or half [T, C]; either may be null.
void prepare_input(const InputArgs& args, float* output, void* half_output, int tokens, int columns, cudaStream_t stream);
void add(float* sum, const float* addend, int64_t count, cudaStream_t stream);
void add_bias(float* values, const float* bias, int64_t tokens, int rows, cudaStream_t stream);
void softcap(float* values, int64_t count, float cap, cudaStream_t stream);
void gather(const float* input, const int32_t* row, float* output, int64_t count, int width, cudaStream_t stream);
void scatter_add(const float* input, const int32_t* row, const float* weight, float* output, int64_t count, int width, cudaStream_t stream);
void embed_dense(const void* table, DenseType type, const int32_t* tokens, float scale, float* output, int64_t count, int width,
                 cudaStream_t stream);
void set_places(const PlaceArgs& args, cudaStream_t stream);
void rotate_store(const RotateArgs& args, cudaStream_t stream);
void attend(const AttendArgsDevice& args, cudaStream_t stream);
// The same over halves, on the tensor cores. attends_halves: whether it can.
bool attends_halves(const AttendArgsDevice& args);
void attend_halves(const AttendArgsDevice& args, cudaStream_t stream);
// The same for stretches of many rows, on the tensor cores. attends_prompt: whether it can. is_exact: the weights of the softmax count with
// 22 bits where they would with 11 (always with keys and values as float). multiprocessors: of the card.
bool attends_prompt(const AttendPromptArgs& args);
void attend_prompt(AttendPromptArgs args, bool is_exact, int multiprocessors, cudaStream_t stream);
int dense_blocks(int rows);
void dense(const DenseArgs& args, cudaStream_t stream);  // up to kMaxDenseTokens
// One of as many launches as there are parts, each on its card: all of them are launched before anything is waited for.
void gather_parts(const GatherArgs& args, cudaStream_t stream);
// A loop that only reads; sink is never written.
void read_only(const void* memory, uint64_t bytes, int32_t* sink, int blocks, cudaStream_t stream);
struct ArgmaxState {
  unsigned long long best = 0;
  uint32_t arrived = 0;
  int32_t index = 0;
};
// The first of the largest values that are numbers, into state->index; 0 if none is. state: zeros but for the index, before and after.
void argmax(const float* values, int count, ArgmaxState* state, cudaStream_t stream);

// Of RankArgs: RankOut has the layout of Ranked, the state the values of RankState.
struct RankOut {
  float value = 0;
  int32_t index = 0;
};
constexpr int kMostRankCount = 512, kRankDone = 0, kRankUnknown = 1, kRankNotFinite = 2;
struct RankJob {
  const float* values = nullptr;  // [rows, width]
  int width = 0, count = 0;       // count: up to kMostRankCount and to width
  RankOut* ranked = nullptr;      // [rows, count]
  int32_t* state = nullptr;       // [rows]
};
void rank(const RankJob& args, int rows, cudaStream_t stream);

// Of ScoreArgs: out has the layout of TokenScore.
struct ScoreOut {
  double loss = 0, reference_loss = 0, divergence = 0;
  int32_t top = 0, reference_top = 0;
};
struct Score {
  const float* logits = nullptr;     // [T, V]
  const float* reference = nullptr;  // [T, V] or null
  const int32_t* next = nullptr;     // [T]
  ScoreOut* out = nullptr;           // [T]
  int64_t tokens = 0;
  int vocabulary = 0;
};
void score(const Score& args, cudaStream_t stream);
// output[T, C] = sqrt(weight[T]) * input[T, C]
void scale_tokens(const float* input, const float* weight, float* output, int64_t tokens, int64_t columns, cudaStream_t stream);
// output[C, C]: rows and columns backwards.
void mirror(const float* input, float* output, int64_t columns, cudaStream_t stream);
// Of a lower factor [C, C], row-major, the mirror image U: feedback[j, k] = U[j, k] / U[k, k] above the diagonal, else 0; root[k] = U[k,
// k].
void normalise_mirror(const float* factor, float* feedback, float* root, int64_t columns, cudaStream_t stream);
void widen(const void* halves, float* output, int64_t count, cudaStream_t stream);
void widen_bf16(const void* values, float* output, int64_t count, cudaStream_t stream);

// Planes.
void quantize(const QuantizeArgs& args, cudaStream_t stream);
// plane_linear_shared: bytes of shared memory that a thread block of it needs at least.
int plane_linear_shared(const PlanePlan& plan);
void plane_linear(const PlaneArgs& args, const PlanePlan& plan, cudaStream_t stream);
// One token, by thread blocks that own rows. False where they cannot hold what they need.
bool plane_rows(const PlaneRowsArgs& args, cudaStream_t stream);
// kMaxTokens and more. plane_many_shared: bytes of shared memory that a thread block of it needs.
int plane_many_shared(const ManyPlan& plan);
void plane_many(const ManyArgs& args, const ManyPlan& plan, cudaStream_t stream);
// Still more, with decoded bands. plane_bands_needs: of a form, the bytes of shared memory of a thread block, and the highest rate that it
// can multiply.
struct BandNeeds {
  int shared_bytes = 0, most_rate = 0;
};
BandNeeds plane_bands_needs(int form);
void plane_bands(const BandArgs& args, cudaStream_t stream);
// Lines of the file (device memory) to tiles, one matrix.
void repack(const uint32_t* lines, int64_t lines_of_row, int blocks, int groups, uint32_t* tiles, cudaStream_t stream);
// Rows [first, first + count) of W', rotated basis, as half [count, C] or float.
struct DecodeArgs {
  PlaneJob job;  // bias and output unused
  const uint32_t* tiles = nullptr;
  int groups = 0, columns = 0, hadamard = 0, first = 0, count = 0;
  void* half_output = nullptr;
  float* output = nullptr;
};
void decode(const DecodeArgs& args, cudaStream_t stream);
// The same where decodes_bands(); halves alone.
void decode_bands(const DecodeArgs& args, cudaStream_t stream);
// Input in the rotated basis [T, C], as half or float.
void rotate_input(const QuantizeArgs& args, void* half_output, float* output, cudaStream_t stream);
// Rows of a table by number, back in the original basis, scaled. output: [count, C]
void embed_planes(const DecodeArgs& table, const uint8_t* sign, const int32_t* tokens, float scale, int count, cudaStream_t stream);

}  // namespace tq::cuda
