#include "kernels/cuda/cuda_backend.h"

#include <cublas_v2.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>

#include "kernels/cuda/attending.h"
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
  CudaBackend(const Card& card, int parts, ThreadPool& threads, Isa host_isa)
      : name_(fmt::format("cuda ({})", card.name)),
        device_(card.device),
        multiprocessors_(card.multiprocessors),
        host_isa_(host_isa),
        threads_(threads),
        attention_({card.multiprocessors, parts, card.major >= 9}, places_, generation_),
        products_(card.multiprocessors, card.major >= 9, generation_) {}
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
    TQ_ASSIGN(argmax_, DeviceMemory::allocate(sizeof(ArgmaxState)));
    expect(cudaMemsetAsync(argmax_.as<void>(), 0, argmax_.bytes(), stream_), "zeroing");
    TQ_TRY(products_.open(blas_, stream_));
    TQ_TRY(attention_.open(stream_));
    quantizer_.emplace(threads_, blas_, stream_);
    training_.emplace(*this, threads_, blas_, stream_);
    return {};
  }

  std::string name() const override { return name_; }
  bool is_host() const override { return false; }
  Isa isa() const override { return host_isa_; }
  DeviceQuantizer* quantizer() override { return &*quantizer_; }
  Training* training() override { return &*training_; }

  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override {
    TQ_ASSIGN(std::shared_ptr<const Weights> weights, load(tensor, expert));
    auto matrix = std::make_unique<CudaMatrix>(std::move(weights));
    if (matrix->weights->is_planes) matrix->steps = products_.plane_steps(*matrix);
    return matrix;
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
    for (const AttendArgs& attention : bounds.attention) TQ_TRY(attention_.reserve(attention, bounds.rows));
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
      cuda::read_only(memory->as<void>(), kReadBytes, &argmax_.as<ArgmaxState>()->index, of_each * multiprocessors_, stream_);
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

  void attend(const AttendArgs& args) override { attention_.run(args, others()); }
  void rotate_store_attend(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store, const AttendArgs& args) override {
    if (!Attending::is_single(args)) return Backend::rotate_store_attend(query, key, store, args);
    RotateArgs rotate = rotate_args(query, store.kv);
    rotate.key = key.values, rotate.value = store.value, rotate.key_stride = store.stride;
    attention_.run_single(args, rotate, others());
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
    cuda::argmax(values, static_cast<int>(count), argmax_.as<ArgmaxState>(), others());
    download(&index, &argmax_.as<ArgmaxState>()->index, sizeof index);
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
  int device_, multiprocessors_;
  Isa host_isa_;
  ThreadPool& threads_;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  DeviceMemory blas_workspace_, argmax_;
  uint64_t generation_ = 0;  // grows when memory that a recording may use is freed
  Recordings recordings_;
  Places places_{generation_};
  std::map<std::tuple<const void*, int64_t, int64_t>, Loaded> loaded_;
  std::map<const void*, Table> tables_;
  std::map<std::vector<float>, DeviceMemory> constants_;
  std::optional<CudaQuantizer> quantizer_;
  std::optional<CudaTraining> training_;
  Attending attention_;
  Products products_;
  Ranking ranking_;
  Scratch next_, scores_;
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

Result<Part> open_part(const Card& card, int parts, ThreadPool& threads, Isa host_isa) {
  if (card.major < kOldestMajor)
    return fail(ErrorCode::kNoResource, "{} has compute capability {}.{}, 8.0 is needed; use --backend cpu", card.name, card.major,
                card.minor);
  auto backend = std::make_unique<CudaBackend>(card, parts, threads, host_isa);
  TQ_TRY(backend->open());
  const cudaStream_t stream = backend->stream();
  return Part{std::move(backend), card.device, stream};
}

}  // namespace cuda

}  // namespace tq
