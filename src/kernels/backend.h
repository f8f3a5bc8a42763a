// Backend: the operations that the executor enqueues, one struct of arguments each. kernels/ref is the oracle of every one of them.
// Row-major everywhere; T tokens, R rows (out), C columns (in).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cpu.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "codec/codec.h"

namespace tq {

// Memory where a backend's operations read and write: every pointer in the structs below that is not said to be the host's points into it.
class Memory {
 public:
  using Free = std::function<void(std::byte*)>;
  Memory() = default;
  Memory(std::byte* data, uint64_t bytes, Free free) : data_(data, std::move(free)), bytes_(bytes) {}
  uint64_t bytes() const { return bytes_; }
  bool empty() const { return bytes_ == 0; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  std::unique_ptr<std::byte, Free> data_;
  uint64_t bytes_ = 0;
};

// How activations enter the product with a quantized matrix. kFloat is the slow and exact way, for evaluation and statistics. kInvariant
// rounds as kInt8 does for one token, and gives each row the same bits whatever rows stand beside it: prompts take longer. kTraining is
// kFloat where a device may round the factors of its products to 11 bits (TF32): for gradients, second moments, and what is compared with
// their like.
enum class Precision : uint8_t { kInt8, kFloat, kInvariant, kTraining };
constexpr bool has_float_activations(Precision precision) { return precision == Precision::kFloat || precision == Precision::kTraining; }

// A weight that a backend is ready to multiply with. It may point into the PackedTensor's memory, which it keeps alive.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {}
  virtual ~Matrix() = default;
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  // Name of the kernel that multiplies it for so many tokens at once; for `tq inspect --plan`.
  virtual std::string kernel(int64_t tokens) const = 0;
  // Bytes of weights that one token's product reads.
  virtual uint64_t bytes() const = 0;

 private:
  int64_t rows_, columns_;
};

// output[T, R] = input[T, C] · W[R, C]^T + bias[R]. All jobs read the same input (one tap point: q, k, v or gate, up), so that it is
// rotated and rounded once.
struct LinearJob {
  const Matrix* matrix = nullptr;
  const float* bias = nullptr;  // [R] or null
  float* output = nullptr;      // [T, R]
};
struct LinearArgs {
  const float* input = nullptr;  // [T, C]
  int64_t tokens = 0;
  std::span<const LinearJob> jobs;
  Precision precision = Precision::kInt8;
};

// output = input / sqrt(mean(input^2) + epsilon) * (weight + offset), over the last dimension. output may be input.
struct NormArgs {
  const float* input = nullptr;   // [count, width]
  const float* weight = nullptr;  // [width]
  float* output = nullptr;        // [count, width]
  int64_t count = 0, width = 0;
  float epsilon = 0.0f, offset = 0.0f;
};

// Consecutive rows of a batch that are consecutive positions of one sequence. The T rows of an operation are its stretches, one after
// another.
struct Stretch {
  int64_t tokens = 0;
  int64_t first_position = 0;      // positions before it are stored
  int64_t sequence_length = 0;     // whole length that the sequence will have, for rope that depends on it; 0: the stretch's end
  const int32_t* pages = nullptr;  // the pages of its keys and values in order, in the backend's memory; null: 0, 1, 2, …
};
inline int64_t tokens_of(std::span<const Stretch> stretches) {
  int64_t tokens = 0;
  for (const Stretch& stretch : stretches) tokens += stretch.tokens;
  return tokens;
}

// Rotates dimensions (i, i + n) of each head by position * inv_freq[i], n = inv_freq.size(), in place.
struct RotaryArgs {
  float* values = nullptr;  // [T, heads, head_dim], rows `stride` floats apart
  std::span<const Stretch> stretches;
  int64_t heads = 0, head_dim = 0, stride = 0;
  std::span<const float> inv_freq;
  float magnitude = 1.0f;
};

enum class KvType : uint8_t { kF32, kF16, kQ8 };

constexpr int64_t kPageTokens = 32;

// Keys and values of one layer: for each, [pages, kv_heads, page_tokens] rows of kv_row_bytes. kQ8: head_dim int8, then one float scale.
// Which pages are a sequence's says its Stretch.
struct KvView {
  KvType type = KvType::kF16;
  std::byte* key = nullptr;
  std::byte* value = nullptr;
  int64_t kv_heads = 0;
  int64_t capacity = 0;  // positions that a sequence may have
  int64_t head_dim = 0;
  int64_t page_tokens = kPageTokens;  // a power of two
};
int64_t kv_row_bytes(KvType type, int64_t head_dim);  // a multiple of 4
std::string_view kv_type_name(KvType type);

// Rounds key and value [T, kv_heads, head_dim] (rows `stride` floats apart) into their positions.
struct KvStoreArgs {
  const float* key = nullptr;
  const float* value = nullptr;
  std::span<const Stretch> stretches;
  int64_t stride = 0;
  KvView kv;
};

// Causal attention: a token sees the stored positions of its own sequence up to its own, within the window.
struct AttendArgs {
  const float* query = nullptr;  // [T, heads, head_dim], rows `stride` floats apart
  float* output = nullptr;       // [T, heads * head_dim]
  std::span<const Stretch> stretches;
  int64_t heads = 0, stride = 0;
  KvView kv;
  int64_t window = 0;  // 0: all; else a token sees itself and window - 1 before it
  float scale = 1.0f;
  float softcap = 0.0f;                    // 0: none; else scores become softcap * tanh(score / softcap)
  Precision precision = Precision::kInt8;  // only kInvariant matters: each row the same bits in every batch
};

enum class GateKind : uint8_t { kSilu, kGeluTanh, kGelu };

// output[T, width] = activation(gate) * up; gate and up rows `stride` floats apart. output may not overlap them.
struct GatedArgs {
  GateKind kind = GateKind::kSilu;
  const float* gate = nullptr;
  const float* up = nullptr;
  float* output = nullptr;
  int64_t tokens = 0, width = 0, stride = 0;
};

// output[T, width] = scale * rows `tokens` of the table [rows, width]. Every token lies within the table.
struct EmbedArgs {
  const PackedTensor* table = nullptr;  // the host's
  std::span<const int32_t> tokens;      // the host's
  float scale = 1.0f;
  float* output = nullptr;
};

// Rows [width] of a matrix by number: gather is output[i] = input[row[i]], scatter_add is output[row[i]] += weight[i] * input[i]. Rows of
// one scatter_add are different.
struct RowsArgs {
  const float* input = nullptr;
  const int32_t* row = nullptr;   // [count]
  const float* weight = nullptr;  // [count], or null: 1; scatter_add only
  float* output = nullptr;
  int64_t count = 0, width = 0;
};

// A product with what stands before and after it, for backends that do it in one go. norm or gated: an operation whose output is the
// linear's input; that memory's content is undefined afterwards, and that of gate and up. sum: the output of the one job is added there,
// [T, R].
struct FusedLinearArgs {
  LinearArgs linear;
  const NormArgs* norm = nullptr;
  const GatedArgs* gated = nullptr;
  float* sum = nullptr;
};

// What a pass over the layers depends on that changes from token to token. The operations inside take these stretches, or some of them that
// stand side by side, from where they lie, and embed these tokens. Passes of equal `recording` have one token for each of as many stretches
// and enqueue the same operations but for these tokens and places, so that a device may repeat what it recorded; 0: never the same.
struct PassArgs {
  std::span<const int32_t> tokens;
  std::span<const Stretch> stretches;
  uint64_t recording = 0;
};

// Bounds of what passes will ask for. Values are not read, only where matrices, tables and frequencies lie.
struct Reservation {
  struct Product {
    std::vector<LinearJob> jobs;  // matrices that share their input
    int64_t tokens = 0;
  };
  int64_t rows = 0;  // of a pass
  Precision precision = Precision::kInt8;
  const PackedTensor* embedding = nullptr;
  std::vector<Product> products;
  std::vector<AttendArgs> attention;  // without rows
  std::vector<std::span<const float>> frequencies;
  int64_t ranked_rows = 0;  // of one rank()
};

// How well rows of logits predict the tokens that come next, and how far they are from another model's. In nats.
struct TokenScore {
  double loss = 0;            // -log softmax(logits)[next]
  double reference_loss = 0;  // of the reference
  double divergence = 0;      // KL(softmax(reference) || softmax(logits))
  int32_t top = 0;            // index of the largest logit, the first of equals
  int32_t reference_top = 0;
};
struct ScoreArgs {
  const float* logits = nullptr;     // [T, V]
  const float* reference = nullptr;  // [T, V], or null: then only loss and top are set
  std::span<const int32_t> next;     // [T], the host's
  TokenScore* score = nullptr;       // [T], the host's; there when the call returns
  int64_t vocabulary = 0;
};

// The largest values of each row, in descending order, equal ones by their index; -0 is 0.
struct Ranked {
  float value = 0.0f;
  int32_t index = 0;
};
constexpr int64_t kMostRanked = 512;
// kUnknown: the backend cannot tell, because too many values are equal. kNotFinite: some value is NaN or infinity. The row has no ranks
// then.
enum class RankState : int32_t { kRanked, kUnknown, kNotFinite };
struct RankArgs {
  const float* values = nullptr;  // [T, width]
  int64_t width = 0, count = 0;   // count: up to kMostRanked and to width
  std::span<RankState> states;    // [T], the host's; there when the call returns
  Ranked* ranked = nullptr;       // [T, count], the same
};
// How a pass is run: its operations enqueued; enqueued and recorded; or what was recorded of them repeated.
enum class PassMode : uint8_t { kEnqueue, kRecord, kRepeat };

class DeviceQuantizer;
class Training;

// Operations only enqueue; results are the caller's after download() or synchronize(). A backend is used by one thread at a time.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "ref", "cpu (avx512, 8 threads)", …
  // The name without what results do not depend on, the number of threads.
  virtual std::string kind() const { return name(); }
  // One matrix of the tensor: expert e of a stack [E, R, C], 0 otherwise. Errors: a codec or shape that it cannot multiply, by name.
  virtual Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert = 0) = 0;

  // Where in the model lies what is prepared and enqueued from here on: the share of its weights' bytes that come before, in [0, 1). For
  // backends that share out layers.
  virtual void enter_depth(double depth) { (void)depth; }

  // Of what the processor computes beside it.
  virtual Isa isa() const { return best_isa(); }

  // Whether its memory is the host's, so that operations' results may be read where they lie. The defaults below serve such backends.
  virtual bool is_host() const { return true; }
  // 64-byte aligned. Large regions of the host take no memory before they are touched. Errors: kNoResource.
  virtual Result<Memory> allocate(uint64_t bytes);
  // Takes what operations within these bounds need of the device's memory beside their arguments, so that they do not allocate. Without it
  // they do, and end the program where there is none. Errors: kNoResource.
  virtual Status reserve(const Reservation&) { return {}; }
  // Of the device's memory, whoever uses it; 0 where the memory is the host's.
  virtual uint64_t bytes_in_use() { return 0; }
  // The same for keys and values of layers that all have so many kv_heads: a backend may keep a part of the heads in each of several
  // memories. For KvView, zero() and copies of whole pages.
  virtual Result<Memory> allocate_heads(uint64_t bytes, int64_t kv_heads) { return (void)kv_heads, allocate(bytes); }
  virtual void upload(void* to, const void* host, uint64_t bytes);
  virtual void download(void* host, const void* from, uint64_t bytes);
  virtual void copy(void* to, const void* from, uint64_t bytes);
  virtual void synchronize() {}
  // Bytes a second of a loop that only reads the device's memory. The host's backends leave that to the caller: 0.
  virtual double read_bytes_per_second() { return 0; }
  // Runs `enqueue`, or repeats what was recorded of it.
  void pass(const PassArgs& args, const std::function<void()>& enqueue);
  // Its steps, for who runs several backends as one: how it can be run best (it may be run in a lower mode, too); what stands before the
  // operations (args must stay until the pass ends); with kRecord, whether there is memory for the recording (if not, the pass is begun
  // again with kEnqueue); what stands behind.
  virtual PassMode pass_mode(const PassArgs& args) { return (void)args, PassMode::kEnqueue; }
  virtual void begin_pass(const PassArgs& args, PassMode mode) { (void)args, (void)mode; }
  virtual bool end_recording() { return true; }
  virtual void end_pass() {}

  virtual void embed(const EmbedArgs& args) = 0;
  virtual void linear(const LinearArgs& args) = 0;
  virtual void norm(const NormArgs& args) = 0;
  virtual void rotary(const RotaryArgs& args) = 0;
  virtual void kv_store(const KvStoreArgs& args) = 0;
  virtual void attend(const AttendArgs& args) = 0;
  virtual void gated(const GatedArgs& args) = 0;
  // The operations one after another, unless a backend knows better.
  virtual void fused_linear(const FusedLinearArgs& args);
  virtual void rotate_and_store(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store);
  // The memory of queries, keys and values, not that of what is stored, is undefined afterwards.
  virtual void rotate_store_attend(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store, const AttendArgs& attend);
  // sum[count] += addend[count]
  virtual void add(float* sum, const float* addend, int64_t count) = 0;
  // values[count] = cap * tanh(values / cap)
  virtual void softcap(float* values, int64_t count, float cap);
  virtual void zero(float* values, int64_t count);
  virtual void gather(const RowsArgs& args);
  virtual void scatter_add(const RowsArgs& args);
  // The index of the largest value, the first of equals. Waits for it.
  virtual int32_t argmax(const float* values, int64_t count);
  virtual void rank(const RankArgs& args);
  virtual void score(const ScoreArgs& args) = 0;
  // The gradients of these operations (kernels/training.h); null where a backend has none.
  virtual Training* training() { return nullptr; }
  // What quantization leaves to a device (kernels/device_quantizer.h); null where the memory is the host's.
  virtual DeviceQuantizer* quantizer() { return nullptr; }
};

// embed() of a backend whose memory is the host's.
void embed_rows(const EmbedArgs& args, ThreadPool& threads);

// The scalar oracle: every matrix is decoded to float when it is prepared.
std::unique_ptr<Backend> make_ref_backend(ThreadPool& threads);

}  // namespace tq
