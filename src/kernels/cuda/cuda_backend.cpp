#include "kernels/cuda/cuda_backend.h"

#include <cublas_v2.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>

#include "kernels/cuda/card.h"
#include "kernels/cuda/expect.h"
#include "kernels/cuda/places.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/quantizer.h"
#include "kernels/cuda/ranking.h"
#include "kernels/cuda/recordings.h"
#include "kernels/cuda/training.h"
#include "kernels/cuda/weights.h"

namespace tq {
namespace {

using namespace cuda;

constexpr int kOldestMajor = 8;  // compute capability
constexpr uint64_t kBlasBytes = uint64_t{64} << 20;
constexpr uint64_t kReadBytes = uint64_t{2} << 30;

class CudaBackend final : public Backend {
 public:
  CudaBackend(const Card& card, int parts, ThreadPool& threads)
      : name_(fmt::format("cuda ({})", card.name)),
        device_(card.device),
        parts_(parts),
        multiprocessors_(card.multiprocessors),
        has_clusters_(card.major >= 9),
        threads_(threads),
        products_(card.multiprocessors, has_clusters_, generation_) {}
  ~CudaBackend() override {
    cudaSetDevice(device_);
    if (blas_) cublasDestroy(blas_);
    if (stream_) cudaStreamDestroy(stream_);
  }

  cudaStream_t stream() const { return stream_; }
  Status open() {
    if (cudaSetDevice(device_) != cudaSuccess || cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) != cudaSuccess ||
        cublasCreate(&blas_) != CUBLAS_STATUS_SUCCESS)
      return fail(ErrorCode::kNoResource, "{} has no memory left for a stream and cuBLAS", name_);
    TQ_ASSIGN(blas_workspace_, DeviceMemory::allocate(kBlasBytes));
    cublasSetStream(blas_, stream_);
    cublasSetWorkspace(blas_, blas_workspace_.as<void>(), kBlasBytes);
    TQ_ASSIGN(number_, DeviceMemory::allocate(sizeof(int32_t)));
    TQ_TRY(products_.open(blas_, stream_));
    TQ_ASSIGN(attend_arrived_, DeviceMemory::allocate(kMostHeads * sizeof(uint32_t)));
    expect(cudaMemsetAsync(attend_arrived_.as<void>(), 0, attend_arrived_.bytes(), stream_), "zeroing");
    quantizer_.emplace(threads_, blas_, stream_);
    training_.emplace(*this, threads_, blas_, stream_);
    return {};
  }

  std::string name() const override { return name_; }
  bool is_host() const override { return false; }
  DeviceQuantizer* quantizer() override { return &*quantizer_; }
  Training* training() override { return &*training_; }

  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override {
    TQ_ASSIGN(std::shared_ptr<const Weights> weights, load(tensor, expert));
    return std::make_unique<CudaMatrix>(std::move(weights));
  }

  Result<Memory> allocate(uint64_t bytes) override {
    TQ_ASSIGN(DeviceMemory memory, DeviceMemory::allocate(bytes));
    if (bytes == 0) return Memory();
    auto owner = std::make_shared<DeviceMemory>(std::move(memory));
    return Memory(owner->as<std::byte>(), bytes, [this, owner](std::byte*) mutable {
      ++generation_;
      owner.reset();
    });
  }
  Status reserve(const Reservation& bounds) override {
    TQ_TRY(places_.reserve(bounds.rows));
    for (const Reservation::Product& product : bounds.products) TQ_TRY(products_.reserve(product.jobs, product.tokens, bounds.precision));
    for (const AttendArgs& attention : bounds.attention) TQ_TRY(reserve_attention(attention, bounds.rows));
    for (const auto frequencies : bounds.frequencies) TQ_TRY(on_device(frequencies));
    if (bounds.embedding) TQ_TRY(table_of(*bounds.embedding));
    return ranking_.reserve(bounds.ranked_rows, kMostRanked, generation_);
  }
  uint64_t bytes_in_use() override {
    size_t free = 0, total = 0;
    expect(cudaMemGetInfo(&free, &total), "its memory");
    return total - free;
  }
  void upload(void* to, const void* host, uint64_t bytes) override {
    expect(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, stream_), "upload");
    synchronize();
  }
  void download(void* host, const void* from, uint64_t bytes) override {
    expect(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_), "download");
    synchronize();
  }
  void copy(void* to, const void* from, uint64_t bytes) override {
    expect(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "copy");
  }
  void synchronize() override { expect(cudaStreamSynchronize(stream_), "waiting for the card"); }

  double read_bytes_per_second() override {
    auto memory = DeviceMemory::allocate(kReadBytes);
    if (!memory) return 0;
    expect(cudaMemsetAsync(memory->as<void>(), 1, kReadBytes, stream_), "reading");
    cudaEvent_t begin, end;
    expect(cudaEventCreate(&begin), "reading");
    expect(cudaEventCreate(&end), "reading");
    float fastest = INFINITY;
    for (const int of_each : {8, 8, 16, 32}) {  // thread blocks a multiprocessor; which is best depends on the card
      float milliseconds = 0;
      expect(cudaEventRecord(begin, stream_), "reading");
      cuda::read_only(memory->as<void>(), kReadBytes, number_.as<int32_t>(), of_each * multiprocessors_, stream_);
      expect(cudaEventRecord(end, stream_), "reading");
      synchronize();
      expect(cudaEventElapsedTime(&milliseconds, begin, end), "reading");
      fastest = std::min(fastest, milliseconds);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return static_cast<double>(kReadBytes) / fastest * 1e3;
  }

  PassMode pass_mode(const PassArgs& args) override {
    return is_recorded(args) ? recordings_.mode(args.recording, generation_) : PassMode::kEnqueue;
  }
  void begin_pass(const PassArgs& args, PassMode mode) override {
    places_.begin(args, stream_);
    if (is_recorded(args)) recordings_.begin(args.recording, mode, stream_);
  }
  bool end_recording() override { return recordings_.end(stream_); }
  void end_pass() override {
    places_.end();
    recordings_.finish(generation_, stream_);
  }

  void embed(const EmbedArgs& args) override {
    const Weights& table = *table_of(*args.table).value();
    const auto count = static_cast<int64_t>(args.tokens.size());
    const int32_t* tokens = places_.tokens(args.tokens, stream_);
    if (table.is_planes) {
      DecodeArgs decode = decode_args(table);
      decode.output = args.output;
      cuda::embed_planes(decode, table.sign.as<uint8_t>(), tokens, args.scale, static_cast<int>(count), others());
    } else {
      cuda::embed_dense(table.values.as<void>(), table.type, tokens, args.scale, args.output, count, table.columns, others());
    }
  }

  void linear(const LinearArgs& args) override { products_.run(args, {.input = args.input, .stride = columns_of(args)}, nullptr); }

  void fused_linear(const FusedLinearArgs& args) override {
    TQ_CHECK(!args.sum || args.linear.jobs.size() == 1);
    InputArgs input{.input = args.linear.input, .stride = columns_of(args.linear)};
    if (args.norm)
      input = {.prologue = Prologue::kNorm,
               .input = args.norm->input,
               .other = args.norm->weight,
               .stride = args.norm->width,
               .epsilon = args.norm->epsilon,
               .offset = args.norm->offset};
    if (args.gated)
      input = {.prologue = Prologue::kGated,
               .input = args.gated->gate,
               .other = args.gated->up,
               .stride = args.gated->stride,
               .gate_kind = static_cast<int>(args.gated->kind)};
    products_.run(args.linear, input, args.sum);
  }

  void norm(const NormArgs& args) override {
    cuda::norm(args.input, args.weight, args.output, args.count, static_cast<int>(args.width), args.epsilon, args.offset, others());
  }

  void rotary(const RotaryArgs& args) override {
    if (args.stretches.empty()) return;
    RotateArgs rotate = rotate_args(args, {});
    rotate.query = args.values, rotate.query_stride = args.stride, rotate.heads = static_cast<int>(args.heads);
    rotate.stores = false;
    cuda::rotate_store(rotate, others());
  }
  void kv_store(const KvStoreArgs& args) override {
    RotateArgs store;
    store.kv = kv_args(args.kv);
    store.key = const_cast<float*>(args.key), store.value = args.value, store.key_stride = args.stride;
    store.tokens = static_cast<int>(tokens_of(args.stretches)), store.place = places_.of(args.stretches, stream_);
    store.rotates = false;
    cuda::rotate_store(store, others());
  }
  void rotate_and_store(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store) override {
    RotateArgs all = rotate_args(query, store.kv);
    all.query = query.values, all.query_stride = query.stride, all.heads = static_cast<int>(query.heads);
    all.key = key.values, all.value = store.value, all.key_stride = key.stride;
    cuda::rotate_store(all, others());
  }

  // Stretches of many rows and the others, in runs of one kind that stand side by side.
  void attend(const AttendArgs& args) override {
    const auto is_prompt = [&](const Stretch& stretch) {
      return args.precision != Precision::kInvariant && stretch.tokens >= kLeastPromptRows;
    };
    AttendArgs run = args;
    for (size_t first = 0, last = 0; first < args.stretches.size(); first = last) {
      while (last < args.stretches.size() && is_prompt(args.stretches[last]) == is_prompt(args.stretches[first])) ++last;
      run.stretches = args.stretches.subspan(first, last - first);
      if (!is_prompt(args.stretches[first]) || !attend_prompts(run)) attend_rows(run);
      const int64_t tokens = tokens_of(run.stretches);
      run.query += tokens * args.stride, run.output += tokens * args.heads * args.kv.head_dim;
    }
  }
  void rotate_store_attend(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store, const AttendArgs& args) override {
    const bool is_single = std::all_of(args.stretches.begin(), args.stretches.end(), [](const auto& each) { return each.tokens == 1; });
    if (!is_single || args.precision == Precision::kInvariant) return Backend::rotate_store_attend(query, key, store, args);
    AttendArgsDevice all = attend_args(args);
    all.rotates = true, all.is_settled = places_.in_pass();
    all.rotate = rotate_args(query, store.kv);
    all.rotate.key = key.values, all.rotate.value = store.value, all.rotate.key_stride = store.stride;
    cuda::attend(all, others());
  }

  void gated(const GatedArgs& args) override {
    const InputArgs input{.prologue = Prologue::kGated,
                          .input = args.gate,
                          .other = args.up,
                          .stride = args.stride,
                          .gate_kind = static_cast<int>(args.kind)};
    cuda::prepare_input(input, args.output, nullptr, static_cast<int>(args.tokens), static_cast<int>(args.width), others());
  }
  void add(float* sum, const float* addend, int64_t count) override { cuda::add(sum, addend, count, others()); }
  void softcap(float* values, int64_t count, float cap) override { cuda::softcap(values, count, cap, others()); }
  void zero(float* values, int64_t count) override {
    expect(cudaMemsetAsync(values, 0, static_cast<uint64_t>(count) * sizeof(float), stream_), "zeroing");
  }
  void gather(const RowsArgs& args) override {
    cuda::gather(args.input, args.row, args.output, args.count, static_cast<int>(args.width), others());
  }
  void scatter_add(const RowsArgs& args) override {
    cuda::scatter_add(args.input, args.row, args.weight, args.output, args.count, static_cast<int>(args.width), others());
  }
  int32_t argmax(const float* values, int64_t count) override {
    int32_t index = 0;
    cuda::argmax(values, static_cast<int>(count), number_.as<int32_t>(), others());
    download(&index, number_.as<int32_t>(), sizeof index);
    return index;
  }
  void rank(const RankArgs& args) override { ranking_.run(args, generation_, others()); }
  void score(const ScoreArgs& args) override {
    static_assert(sizeof(ScoreOut) == sizeof(TokenScore) && offsetof(ScoreOut, top) == offsetof(TokenScore, top));
    const auto tokens = static_cast<int64_t>(args.next.size());
    auto* next = next_.get<int32_t>(tokens, generation_);
    auto* out = scores_.get<ScoreOut>(tokens, generation_);
    upload(next, args.next.data(), args.next.size_bytes());
    cuda::score({args.logits, args.reference, next, out, tokens, static_cast<int>(args.vocabulary)}, others());
    download(args.score, out, args.next.size() * sizeof *out);
  }

 private:
  static constexpr int64_t kLeastPromptRows = 16;  // of a stretch whose attention is worth the tensor cores
  static constexpr int64_t kAttendShare = 64;      // positions that are worth a thread block
  static constexpr int64_t kMostSplits = 32;
  static constexpr int64_t kInvariantRows = 16;            // of a launch whose splits do not depend on its rows
  static constexpr int64_t kMostHeads = int64_t{1} << 16;  // of all tokens, where positions are split

  // The stream, for kernels that are no products of planes.
  cudaStream_t others() {
    products_.interrupt();
    return stream_;
  }
  static int64_t columns_of(const LinearArgs& args) { return args.jobs[0].matrix->columns(); }

  static bool is_recorded(const PassArgs& args) { return args.recording != 0 && Places::is_repeatable(args); }

  // Tensors are loaded once: a tied head is the embedding. A part of one that is cut has its memory, and another size.
  struct Loaded {
    std::weak_ptr<const void> owner;
    std::weak_ptr<const Weights> weights;
  };
  Result<std::shared_ptr<const Weights>> load(const PackedTensor& tensor, int64_t expert) {
    Loaded& known = loaded_[{tensor.parts[0].view.data, tensor.rows(), expert}];
    if (known.owner.lock() == tensor.owner)
      if (auto weights = known.weights.lock()) return weights;
    TQ_ASSIGN(std::shared_ptr<const Weights> weights, load_weights(tensor, expert, threads_, stream_));
    known = {tensor.owner, weights};
    return weights;
  }

  // Embeddings, kept as long as the host's tensor is.
  struct Table {
    std::weak_ptr<const void> owner;
    std::shared_ptr<const Weights> weights;
  };
  Result<const Weights*> table_of(const PackedTensor& tensor) {
    std::erase_if(tables_, [](const auto& entry) { return entry.second.owner.expired(); });
    Table& table = tables_[tensor.parts[0].view.data];
    if (!table.weights) {
      TQ_ASSIGN(auto weights, load(tensor, 0));
      table = {tensor.owner, std::move(weights)};
    }
    return table.weights.get();
  }

  Result<const float*> on_device(std::span<const float> values) {
    std::vector<float> key(values.begin(), values.end());
    auto found = constants_.find(key);
    if (found == constants_.end()) {
      TQ_ASSIGN(auto memory, DeviceMemory::of(key.data(), key.size() * sizeof(float)));
      found = constants_.emplace(std::move(key), std::move(memory)).first;
    }
    return found->second.as<const float>();
  }

  static KvArgs kv_args(const KvView& kv) {
    return {.type = static_cast<int>(kv.type),
            .key = reinterpret_cast<char*>(kv.key),
            .value = reinterpret_cast<char*>(kv.value),
            .kv_heads = static_cast<int>(kv.kv_heads),
            .head_dim = static_cast<int>(kv.head_dim),
            .page_shift = std::countr_zero(static_cast<uint64_t>(kv.page_tokens)),
            .row_bytes = static_cast<int>(kv_row_bytes(kv.type, kv.head_dim)),
            .scale_at = static_cast<int>((kv.head_dim + 3) / 4 * 4)};
  }
  // Thread blocks among which a token's positions are split. The same at every length, so that a recorded pass holds for all of them; with
  // kInvariant the same for any number of tokens; and as for all parts' heads together, so that sums are the same.
  int64_t splits_of(const AttendArgs& args, int64_t tokens) const {
    if (args.precision == Precision::kInvariant) tokens = 1;
    const int64_t group = args.heads / args.kv.kv_heads, chunks = (group + kAttendHeads - 1) / kAttendHeads;
    const int64_t blocks = parts_ * args.kv.kv_heads * tokens;
    const int64_t longest = (args.kv.capacity + kAttendShare - 1) / kAttendShare;
    // One token's have multiprocessors for themselves, so that the thread blocks of the next product find places at once.
    const int64_t most = tokens == 1 ? multiprocessors_ / (blocks * chunks) : 2 * multiprocessors_ / blocks;
    return std::clamp<int64_t>(most, 1, std::min<int64_t>(longest, kMostSplits));
  }
  static int64_t partial_floats(const AttendArgs& args, int64_t tokens, int64_t splits) {
    return splits > 1 ? tokens * args.heads * splits * (args.kv.head_dim + 2) : 0;
  }
  Status reserve_attention(const AttendArgs& args, int64_t rows) {
    int64_t most = 0;
    const int64_t tokens = std::min(rows, args.precision == Precision::kInvariant ? kInvariantRows : 2 * multiprocessors_);
    for (int64_t i = 1; i <= tokens; ++i) most = std::max(most, partial_floats(args, i, splits_of(args, i)));
    return attend_partial_.reserve(most * static_cast<int64_t>(sizeof(float)), generation_);
  }
  // tokens: of a launch
  AttendArgsDevice attend_args(const AttendArgs& args, int64_t tokens) {
    AttendArgsDevice attend;
    attend.kv = kv_args(args.kv);
    attend.query = args.query, attend.output = args.output, attend.stride = args.stride;
    attend.tokens = static_cast<int>(tokens), attend.heads = static_cast<int>(args.heads), attend.window = static_cast<int>(args.window);
    attend.scale = args.scale, attend.softcap = args.softcap, attend.place = places_.of(args.stretches, stream_);
    attend.splits = static_cast<int>(splits_of(args, tokens));
    if (attend.splits > 1) {
      if (has_clusters_) attend.cluster = std::min(kMostCluster, static_cast<int>(std::bit_ceil(static_cast<unsigned>(attend.splits))));
      attend.partial = attend_partial_.get<float>(partial_floats(args, tokens, attend.splits), generation_);
      TQ_CHECK(tokens * args.heads <= kMostHeads);
      attend.arrived = attend_arrived_.as<uint32_t>();
    }
    return attend;
  }
  AttendArgsDevice attend_args(const AttendArgs& args) { return attend_args(args, tokens_of(args.stretches)); }
  void attend_rows(const AttendArgs& args) {
    const int64_t tokens = tokens_of(args.stretches), most = args.precision == Precision::kInvariant ? kInvariantRows : tokens;
    AttendArgsDevice attend = attend_args(args, std::min(tokens, most));
    for (int64_t first = 0; first < tokens; first += most) {
      attend.tokens = static_cast<int>(std::min(most, tokens - first));
      cuda::attend(attend, others());
      attend.query += most * args.stride, attend.output += most * args.heads * args.kv.head_dim, attend.place += most;
    }
  }
  // False where the tensor cores' kernel cannot.
  bool attend_prompts(const AttendArgs& args) {
    AttendPromptArgs prompts{.query = args.query,
                             .output = args.output,
                             .stride = args.stride,
                             .heads = static_cast<int>(args.heads),
                             .window = static_cast<int>(args.window),
                             .scale = args.scale,
                             .softcap = args.softcap,
                             .kv = kv_args(args.kv)};
    if (!cuda::attends_prompt(prompts)) return false;
    prompts.place = places_.of(args.stretches, stream_);
    int32_t row = 0;
    for (const Stretch& stretch : args.stretches) {
      prompts.stretch[prompts.stretches++] = {.first_row = row, .tokens = static_cast<int32_t>(stretch.tokens)};
      row += static_cast<int32_t>(stretch.tokens);
      if (prompts.stretches < kMaxPrompts && &stretch != &args.stretches.back()) continue;
      cuda::attend_prompt(prompts, has_float_activations(args.precision), multiprocessors_, others());
      prompts.stretches = 0;
    }
    return true;
  }
  RotateArgs rotate_args(const RotaryArgs& args, const KvView& kv) {
    RotateArgs rotate;
    rotate.kv = kv_args(kv);
    rotate.kv.head_dim = static_cast<int>(args.head_dim);
    rotate.inv_freq = on_device(args.inv_freq).value();
    rotate.half = static_cast<int>(args.inv_freq.size()), rotate.magnitude = args.magnitude;
    rotate.tokens = static_cast<int>(tokens_of(args.stretches)), rotate.place = places_.of(args.stretches, stream_);
    return rotate;
  }

  std::string name_;
  int device_, parts_, multiprocessors_;
  bool has_clusters_;
  ThreadPool& threads_;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  DeviceMemory blas_workspace_, number_, attend_arrived_;  // number: argmax
  uint64_t generation_ = 0;                                // grows when memory that a recording may use is freed
  Recordings recordings_;
  Places places_{generation_};
  std::map<std::tuple<const void*, int64_t, int64_t>, Loaded> loaded_;
  std::map<const void*, Table> tables_;
  std::map<std::vector<float>, DeviceMemory> constants_;
  std::optional<CudaQuantizer> quantizer_;
  std::optional<CudaTraining> training_;
  Products products_;
  Ranking ranking_;
  Scratch next_, scores_, attend_partial_;
};

}  // namespace

namespace cuda {

Result<std::vector<Card>> find_cards() {
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0)
    return fail(ErrorCode::kNoResource, "no NVIDIA card to be used: {}; use --backend cpu",
                status == cudaSuccess ? "none found" : cudaGetErrorString(status));
  std::vector<Card> cards;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device) != cudaSuccess)
      return fail(ErrorCode::kNoResource, "NVIDIA card {} does not answer: {}; use --backend cpu", device,
                  cudaGetErrorString(cudaGetLastError()));
    cards.push_back({device, properties.name, properties.major, properties.minor, properties.multiProcessorCount});
  }
  return cards;
}

Result<Part> open_part(const Card& card, int parts, ThreadPool& threads) {
  if (card.major < kOldestMajor)
    return fail(ErrorCode::kNoResource, "{} has compute capability {}.{}, 8.0 is needed; use --backend cpu", card.name, card.major,
                card.minor);
  auto backend = std::make_unique<CudaBackend>(card, parts, threads);
  TQ_TRY(backend->open());
  const cudaStream_t stream = backend->stream();
  return Part{std::move(backend), card.device, stream};
}

}  // namespace cuda

Result<std::unique_ptr<Backend>> make_cuda_backend(ThreadPool& threads) {
  TQ_ASSIGN(const std::vector<Card> cards, find_cards());
  TQ_ASSIGN(Part part, open_part(cards[0], 1, threads));
  return std::move(part.backend);
}

}  // namespace tq
