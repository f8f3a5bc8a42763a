// Arguments of the kernels that are no product of planes. Plain data, for C++ and CUDA. Letters as in kernels/backend.h.
#pragma once

#include <cstdint>

namespace tq::cuda {

// A position that changes from pass to pass: it lies in device memory, so that a recorded graph reads it anew.
struct Position {
  const int32_t* base = nullptr;
  int32_t offset = 0;
};

// What stands before a product, applied as its input is read: nothing, an RMS norm, or a gated activation.
enum class Prologue : uint8_t { kNone, kNorm, kGated };
struct InputArgs {
  Prologue prologue = Prologue::kNone;
  const float* input = nullptr;  // [T, C], or the gate
  const float* other = nullptr;  // the norm's weight [C], or up
  int64_t stride = 0;            // of tokens of input and up
  float epsilon = 0, offset = 0;
  int gate_kind = 0;  // GateKind
};

enum class DenseType : uint8_t { kF16, kF32 };
struct DenseJob {
  const void* weight = nullptr;  // [R, C]
  const float* bias = nullptr;
  float* output = nullptr;  // [T, R]
  int rows = 0;
  int first_block = 0;
  DenseType type = DenseType::kF16;
};
constexpr int kMaxDenseJobs = 4;
constexpr int kMaxDenseTokens = 4;
struct DenseArgs {
  DenseJob job[kMaxDenseJobs];
  int jobs = 0, blocks = 0, tokens = 0, columns = 0;
  bool adds = false;             // output += instead of =
  const float* input = nullptr;  // [T, C]
};

// Keys and values as KvView has them.
struct KvArgs {
  int type = 0;  // KvType
  char* key = nullptr;
  char* value = nullptr;
  int kv_heads = 0, head_dim = 0;
  int64_t capacity = 0;
  int row_bytes = 0, scale_at = 0;
};

struct RotateArgs {
  float* query = nullptr;  // null: none
  float* key = nullptr;    // null: none
  const float* value = nullptr;
  const float* inv_freq = nullptr;
  int half = 0, heads = 0, tokens = 0;
  int64_t query_stride = 0, key_stride = 0;
  float magnitude = 1;
  bool rotates = true, stores = true;
  Position position;
  KvArgs kv;
};

struct AttendArgsDevice {
  const float* query = nullptr;
  float* output = nullptr;
  float* partial = nullptr;     // [T, heads, splits, head_dim + 2]
  uint32_t* arrived = nullptr;  // [T, thread blocks of a token and split], zero between launches
  int tokens = 0, heads = 0, splits = 1, window = 0;
  int64_t stride = 0;
  float scale = 1, softcap = 0;
  Position position;
  KvArgs kv;
  // One token: its query and key are turned and its key and value stored on the way.
  bool rotates = false;
  RotateArgs rotate;
};

}  // namespace tq::cuda
