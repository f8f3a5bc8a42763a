// Arguments of the kernels that are no product of planes. Plain data, for C++ and CUDA. Letters as in kernels/backend.h.
#pragma once

#include <cstdint>

namespace tq::cuda {

// Where a row of a batch belongs. It lies in device memory, so that a recorded graph reads it anew.
struct Place {
  const int32_t* pages = nullptr;  // of its sequence, in order; null: 0, 1, 2, …
  int64_t position = 0;
};

// A row's stretch in the arguments of the kernel that writes places.
struct PlacedStretch {
  const int32_t* pages = nullptr;
  int32_t first_row = 0, first_position = 0, token = 0;  // token: of a stretch of one
};
constexpr int kMaxPlaced = 64;
struct PlaceArgs {
  Place* place = nullptr;    // [rows]
  int32_t* token = nullptr;  // [rows], or null where stretches have several
  int32_t rows = 0, stretches = 0;
  PlacedStretch stretch[kMaxPlaced];  // ascending rows; the first is 0
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
constexpr int kAttendHeads = 4;  // queries' heads of a thread block of attention
constexpr int kMostCluster = 8;  // thread blocks of attention; more are not portable
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
  int page_shift = 0;  // pages have 2^page_shift positions
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
  const Place* place = nullptr;  // [T]
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
  const Place* place = nullptr;  // [T]
  KvArgs kv;
  // One token a sequence: its query and key are turned and its key and value stored on the way.
  bool rotates = false;
  int cluster = 1;          // thread blocks of neighbouring parts that merge through distributed shared memory; up to kMostCluster
  bool is_settled = false;  // places, pages and what is stored, the newest positions aside, are older than the kernel before
  RotateArgs rotate;
};

// Attention of stretches of many rows.
struct PromptStretch {
  int32_t first_row = 0, tokens = 0;  // in the batch
  int32_t first_tile = 0;             // of the thread blocks' tiles of rows; the launch sets it
};
constexpr int kMaxPrompts = 64;
struct AttendPromptArgs {
  const float* query = nullptr;
  float* output = nullptr;
  const Place* place = nullptr;  // [T]
  int64_t stride = 0;
  int heads = 0, window = 0;
  float scale = 1, softcap = 0;
  KvArgs kv;
  int stretches = 0, tiles = 0;
  PromptStretch stretch[kMaxPrompts];
};

}  // namespace tq::cuda
