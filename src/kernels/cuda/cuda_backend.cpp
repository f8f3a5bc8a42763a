#include "kernels/cuda/cuda_backend.h"

#include <cublas_v2.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>

#include "kernels/cuda/expect.h"
#include "kernels/cuda/plane_pass.h"
#include "kernels/cuda/quantizer.h"
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
  CudaBackend(std::string name, int multiprocessors, bool has_clusters, ThreadPool& threads)
      : name_(std::move(name)), multiprocessors_(multiprocessors), threads_(threads), plane_pass_(multiprocessors, has_clusters) {}
  ~CudaBackend() override {
    for (auto& [key, recording] : recordings_)
      if (recording.graph) cudaGraphExecDestroy(recording.graph);
    if (blas_) cublasDestroy(blas_);
    if (stream_) cudaStreamDestroy(stream_);
  }

  Status open() {
    if (cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) != cudaSuccess || cublasCreate(&blas_) != CUBLAS_STATUS_SUCCESS)
      return fail(ErrorCode::kNoResource, "{} has no memory left for a stream and cuBLAS", name_);
    TQ_ASSIGN(blas_workspace_, DeviceMemory::allocate(kBlasBytes));
    cublasSetStream(blas_, stream_);
    cublasSetWorkspace(blas_, blas_workspace_.as<void>(), kBlasBytes);
    TQ_ASSIGN(state_, DeviceMemory::allocate(2 * sizeof(int32_t)));
    TQ_TRY(plane_pass_.open());
    TQ_ASSIGN(attend_arrived_, DeviceMemory::allocate(kMostHeads * sizeof(uint32_t)));
    expect(cudaMemsetAsync(attend_arrived_.as<void>(), 0, attend_arrived_.bytes(), stream_), "zeroing");
    quantizer_.emplace(blas_, stream_);
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
      cuda::read_only(memory->as<void>(), kReadBytes, state_.as<int32_t>() + 1, of_each * multiprocessors_, stream_);
      expect(cudaEventRecord(end, stream_), "reading");
      synchronize();
      expect(cudaEventElapsedTime(&milliseconds, begin, end), "reading");
      fastest = std::min(fastest, milliseconds);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return static_cast<double>(kReadBytes) / fastest * 1e3;
  }

  void pass(const PassArgs& args, const std::function<void()>& enqueue) override {
    pass_stretches_ = args.stretches;
    in_pass_ = true;
    set_places(args.stretches, args.tokens.empty() ? 0 : args.tokens[0]);
    if (args.recording == 0 || args.tokens.size() > 1) enqueue();
    else repeat(args.recording, enqueue);
    in_pass_ = false;
  }

  void embed(const EmbedArgs& args) override {
    const Weights& table = table_of(*args.table);
    const auto count = static_cast<int64_t>(args.tokens.size());
    const int32_t* tokens = token();
    if (!in_pass_ || count != 1) {
      auto* all = tokens_.get<int32_t>(count, generation_);
      upload(all, args.tokens.data(), args.tokens.size_bytes());
      tokens = all;
    }
    if (table.is_planes) {
      DecodeArgs decode = decode_args(table);
      decode.output = args.output;
      cuda::embed_planes(decode, table.sign.as<uint8_t>(), tokens, args.scale, static_cast<int>(count), stream_);
    } else {
      cuda::embed_dense(table.values.as<void>(), table.type, tokens, args.scale, args.output, count, table.columns, stream_);
    }
  }

  void linear(const LinearArgs& args) override { multiply(args, {.input = args.input, .stride = columns_of(args)}, nullptr); }

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
    multiply(args.linear, input, args.sum);
  }

  void norm(const NormArgs& args) override {
    cuda::norm(args.input, args.weight, args.output, args.count, static_cast<int>(args.width), args.epsilon, args.offset, stream_);
  }

  void rotary(const RotaryArgs& args) override {
    if (args.stretches.empty()) return;
    RotateArgs rotate = rotate_args(args, {});
    rotate.query = args.values, rotate.query_stride = args.stride, rotate.heads = static_cast<int>(args.heads);
    rotate.stores = false;
    cuda::rotate_store(rotate, stream_);
  }
  void kv_store(const KvStoreArgs& args) override {
    RotateArgs store;
    store.kv = kv_args(args.kv);
    store.key = const_cast<float*>(args.key), store.value = args.value, store.key_stride = args.stride;
    store.tokens = static_cast<int>(tokens_of(args.stretches)), store.place = places_of(args.stretches);
    store.rotates = false;
    cuda::rotate_store(store, stream_);
  }
  void rotate_and_store(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store) override {
    RotateArgs all = rotate_args(query, store.kv);
    all.query = query.values, all.query_stride = query.stride, all.heads = static_cast<int>(query.heads);
    all.key = key.values, all.value = store.value, all.key_stride = key.stride;
    cuda::rotate_store(all, stream_);
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
      if (!is_prompt(args.stretches[first]) || !attend_prompts(run)) cuda::attend(attend_args(run), stream_);
      const int64_t tokens = tokens_of(run.stretches);
      run.query += tokens * args.stride, run.output += tokens * args.heads * args.kv.head_dim;
    }
  }
  void rotate_store_attend(const RotaryArgs& query, const RotaryArgs& key, const KvStoreArgs& store, const AttendArgs& args) override {
    for (const Stretch& stretch : args.stretches)
      if (stretch.tokens > 1) return Backend::rotate_store_attend(query, key, store, args);
    AttendArgsDevice all = attend_args(args);
    all.rotates = true, all.is_settled = in_pass_;
    all.rotate = rotate_args(query, store.kv);
    all.rotate.key = key.values, all.rotate.value = store.value, all.rotate.key_stride = store.stride;
    cuda::attend(all, stream_);
  }

  void gated(const GatedArgs& args) override {
    const InputArgs input{.prologue = Prologue::kGated,
                          .input = args.gate,
                          .other = args.up,
                          .stride = args.stride,
                          .gate_kind = static_cast<int>(args.kind)};
    cuda::prepare_input(input, args.output, nullptr, static_cast<int>(args.tokens), static_cast<int>(args.width), stream_);
  }
  void add(float* sum, const float* addend, int64_t count) override { cuda::add(sum, addend, count, stream_); }
  void softcap(float* values, int64_t count, float cap) override { cuda::softcap(values, count, cap, stream_); }
  void zero(float* values, int64_t count) override {
    expect(cudaMemsetAsync(values, 0, static_cast<uint64_t>(count) * sizeof(float), stream_), "zeroing");
  }
  void gather(const RowsArgs& args) override {
    cuda::gather(args.input, args.row, args.output, args.count, static_cast<int>(args.width), stream_);
  }
  void scatter_add(const RowsArgs& args) override {
    cuda::scatter_add(args.input, args.row, args.weight, args.output, args.count, static_cast<int>(args.width), stream_);
  }
  int32_t argmax(const float* values, int64_t count) override {
    int32_t index = 0;
    cuda::argmax(values, static_cast<int>(count), state_.as<int32_t>() + 1, stream_);
    download(&index, state_.as<int32_t>() + 1, sizeof index);
    return index;
  }
  void score(const ScoreArgs& args) override {
    static_assert(sizeof(ScoreOut) == sizeof(TokenScore) && offsetof(ScoreOut, top) == offsetof(TokenScore, top));
    const auto tokens = static_cast<int64_t>(args.next.size());
    auto* next = tokens_.get<int32_t>(tokens, generation_);
    auto* out = scores_.get<ScoreOut>(tokens, generation_);
    upload(next, args.next.data(), args.next.size_bytes());
    cuda::score({args.logits, args.reference, next, out, tokens, static_cast<int>(args.vocabulary)}, stream_);
    download(args.score, out, args.next.size() * sizeof *out);
  }

 private:
  static constexpr int64_t kLeastPromptRows = 16;  // of a stretch whose attention is worth the tensor cores
  static constexpr int64_t kAttendShare = 64;      // positions that are worth a thread block
  static constexpr int64_t kMostSplits = 32;
  static constexpr int64_t kMostHeads = int64_t{1} << 16;  // of all tokens, where positions are split

  struct Recording {
    uint64_t generation = 0;
    cudaGraphExec_t graph = nullptr;
  };

  int32_t* token() const { return state_.as<int32_t>(); }

  // Writes the places of a batch's rows, and the first token.
  void set_places(std::span<const Stretch> stretches, int32_t first_token) {
    Place* place = places_.get<Place>(std::max<int64_t>(1, tokens_of(stretches)), generation_);
    for (size_t first = 0; first < stretches.size(); first += kMaxPlaced) {
      PlaceArgs args{.place = place, .token = first == 0 ? token() : nullptr, .first_token = first_token};
      for (const Stretch& stretch : stretches.subspan(first, std::min<size_t>(kMaxPlaced, stretches.size() - first))) {
        args.stretch[args.stretches++] = {stretch.pages, args.rows, static_cast<int32_t>(stretch.first_position)};
        args.rows += static_cast<int32_t>(stretch.tokens);
      }
      cuda::set_places(args, stream_);
      place += args.rows;
    }
  }
  // The places of an operation's rows: in a pass they are there already.
  const Place* places_of(std::span<const Stretch> stretches) {
    if (!in_pass_) {
      set_places(stretches, 0);
      return places_.get<Place>(1, generation_);
    }
    const auto first = static_cast<size_t>(stretches.data() - pass_stretches_.data());
    TQ_CHECK(first + stretches.size() <= pass_stretches_.size());
    return places_.get<Place>(1, generation_) + tokens_of(pass_stretches_.first(first));
  }
  static int64_t columns_of(const LinearArgs& args) { return args.jobs[0].matrix->columns(); }
  static const Weights& weights_of(const LinearJob& job) { return *static_cast<const CudaMatrix&>(*job.matrix).weights; }

  // The first time eagerly, so that memory grows; the second time recorded; then repeated until some memory of it has gone.
  void repeat(uint64_t key, const std::function<void()>& enqueue) {
    const auto [found, is_new] = recordings_.try_emplace(key);
    Recording& recording = found->second;
    if (is_new || recording.generation != generation_) {
      if (recording.graph) cudaGraphExecDestroy(recording.graph);
      recording.graph = nullptr;
      enqueue();
      recording.generation = generation_;
      return;
    }
    if (!recording.graph) {
      cudaGraph_t graph = nullptr;
      expect(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording");
      enqueue();
      expect(cudaStreamEndCapture(stream_, &graph), "recording");
      expect(cudaGraphInstantiate(&recording.graph, graph, 0), "recording");
      expect(cudaGraphDestroy(graph), "recording");
    }
    expect(cudaGraphLaunch(recording.graph, stream_), "repeating");
  }

  // Tensors are loaded once: a tied head is the embedding.
  Result<std::shared_ptr<const Weights>> load(const PackedTensor& tensor, int64_t expert) {
    std::weak_ptr<const Weights>& known = loaded_[{tensor.parts[0].view.data, expert}];
    if (auto weights = known.lock()) return weights;
    TQ_ASSIGN(std::shared_ptr<const Weights> weights, load_weights(tensor, expert, threads_, stream_));
    known = weights;
    return weights;
  }

  // Embeddings, kept as long as the host's tensor is.
  struct Table {
    std::weak_ptr<const void> owner;
    std::shared_ptr<const Weights> weights;
  };
  const Weights& table_of(const PackedTensor& tensor) {
    std::erase_if(tables_, [](const auto& entry) { return entry.second.owner.expired(); });
    Table& table = tables_[tensor.parts[0].view.data];
    if (!table.weights) {
      auto weights = load(tensor, 0);
      TQ_CHECK(weights.has_value());
      table = {tensor.owner, std::move(*weights)};
    }
    return *table.weights;
  }

  const float* on_device(std::span<const float> values) {
    std::vector<float> key(values.begin(), values.end());
    auto found = constants_.find(key);
    if (found == constants_.end()) {
      auto memory = DeviceMemory::of(key.data(), key.size() * sizeof(float));
      TQ_CHECK(memory.has_value());
      found = constants_.emplace(std::move(key), std::move(*memory)).first;
    }
    return found->second.as<float>();
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
  AttendArgsDevice attend_args(const AttendArgs& args) {
    const int64_t tokens = tokens_of(args.stretches);
    AttendArgsDevice attend;
    attend.kv = kv_args(args.kv);
    attend.query = args.query, attend.output = args.output, attend.stride = args.stride;
    attend.tokens = static_cast<int>(tokens), attend.heads = static_cast<int>(args.heads), attend.window = static_cast<int>(args.window);
    attend.scale = args.scale, attend.softcap = args.softcap, attend.place = places_of(args.stretches);
    // The same split at every length, so that a recorded pass holds for all of them.
    const int64_t blocks = args.kv.kv_heads * tokens, longest = (args.kv.capacity + kAttendShare - 1) / kAttendShare;
    attend.splits = static_cast<int>(std::clamp<int64_t>(2 * multiprocessors_ / blocks, 1, std::min<int64_t>(longest, kMostSplits)));
    if (attend.splits > 1) {
      attend.partial = attend_partial_.get<float>(tokens * args.heads * attend.splits * (args.kv.head_dim + 2), generation_);
      TQ_CHECK(tokens * args.heads <= kMostHeads);
      attend.arrived = attend_arrived_.as<uint32_t>();
    }
    return attend;
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
    prompts.place = places_of(args.stretches);
    int32_t row = 0;
    for (const Stretch& stretch : args.stretches) {
      prompts.stretch[prompts.stretches++] = {.first_row = row, .tokens = static_cast<int32_t>(stretch.tokens)};
      row += static_cast<int32_t>(stretch.tokens);
      if (prompts.stretches < kMaxPrompts && &stretch != &args.stretches.back()) continue;
      cuda::attend_prompt(prompts, args.precision == Precision::kFloat, multiprocessors_, stream_);
      prompts.stretches = 0;
    }
    return true;
  }
  RotateArgs rotate_args(const RotaryArgs& args, const KvView& kv) {
    RotateArgs rotate;
    rotate.kv = kv_args(kv);
    rotate.kv.head_dim = static_cast<int>(args.head_dim);
    rotate.inv_freq = on_device(args.inv_freq);
    rotate.half = static_cast<int>(args.inv_freq.size()), rotate.magnitude = args.magnitude;
    rotate.tokens = static_cast<int>(tokens_of(args.stretches)), rotate.place = places_of(args.stretches);
    return rotate;
  }

  // Jobs of planes and of floats may stand side by side.
  void multiply(const LinearArgs& args, const InputArgs& input, float* sum) {
    std::vector<LinearJob> planes, dense;
    for (LinearJob job : args.jobs) {
      if (sum) job.output = sum;
      (weights_of(job).is_planes ? planes : dense).push_back(job);
    }
    for (size_t i = 0; i < planes.size(); i += kMaxJobs)
      multiply_planes(args, input, std::span(planes).subspan(i, std::min<size_t>(kMaxJobs, planes.size() - i)), sum != nullptr);
    for (size_t i = 0; i < dense.size(); i += kMaxDenseJobs)
      multiply_dense(args, input, std::span(dense).subspan(i, std::min<size_t>(kMaxDenseJobs, dense.size() - i)), sum != nullptr);
  }

  void multiply_planes(const LinearArgs& args, const InputArgs& input, std::span<const LinearJob> jobs, bool adds) {
    if (args.precision == Precision::kFloat || args.tokens > kPlaneTokens) return multiply_decoded(args, input, jobs, adds);
    bool wants_pairs = false;
    for (const LinearJob& job : jobs) wants_pairs |= weights_of(job).wants_pairs;
    const int64_t most = wants_pairs ? kMaxTokens / 2 : kMaxTokens;
    for (int64_t first = 0; first < args.tokens; first += most) {
      const int64_t count = std::min(most, args.tokens - first);
      InputArgs part = input;
      part.input += first * input.stride;
      if (input.prologue == Prologue::kGated) part.other += first * input.stride;
      std::vector<LinearJob> shifted(jobs.begin(), jobs.end());
      for (LinearJob& job : shifted) job.output += first * job.matrix->rows();
      plane_pass_.run(part, shifted, static_cast<int>(count), adds, generation_, stream_);
    }
  }

  // Prompts: the input rotated, the planes decoded to half (float for kFloat), a GEMM.
  void multiply_decoded(const LinearArgs& args, const InputArgs& input, std::span<const LinearJob> jobs, bool adds) {
    const bool is_float = args.precision == Precision::kFloat;
    const Weights& first = weights_of(jobs[0]);
    const int64_t size = is_float ? 2 : 1;  // of elements, in halves
    auto* rotated = input_.get<uint16_t>(args.tokens * first.columns * size, generation_);
    cuda::rotate_input(quantize_args(first, input, static_cast<int>(args.tokens)), is_float ? nullptr : rotated,
                       is_float ? reinterpret_cast<float*>(rotated) : nullptr, stream_);
    for (const LinearJob& job : jobs) {
      const Weights& weights = weights_of(job);
      DecodeArgs decode = decode_args(weights);
      auto* decoded = decoded_.get<uint16_t>(static_cast<int64_t>(weights.rows) * weights.columns * size, generation_);
      if (is_float) decode.output = reinterpret_cast<float*>(decoded);
      else decode.half_output = decoded;
      cuda::decode(decode, stream_);
      gemm(decoded, rotated, is_float ? CUDA_R_32F : CUDA_R_16F, weights, job, args.tokens, adds);
    }
  }

  // output[T, R] (+)= input[T, C] · weight[R, C]^T + bias; in TF32 where the weights are trained.
  void gemm(const void* weight, const void* input, cudaDataType type, const Weights& shape, const LinearJob& job, int64_t tokens,
            bool adds) {
    const float one = 1.0f, sum = adds ? 1.0f : 0.0f;
    const cublasStatus_t status =
        cublasGemmEx(blas_, CUBLAS_OP_T, CUBLAS_OP_N, shape.rows, static_cast<int>(tokens), shape.columns, &one, weight, type,
                     shape.columns, input, type, shape.columns, &sum, job.output, CUDA_R_32F, shape.rows,
                     shape.is_trainable ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    TQ_CHECK(status == CUBLAS_STATUS_SUCCESS);
    if (job.bias) cuda::add_bias(job.output, job.bias, tokens, shape.rows, stream_);
  }

  void multiply_dense(const LinearArgs& args, const InputArgs& input, std::span<const LinearJob> jobs, bool adds) {
    const int columns = weights_of(jobs[0]).columns;
    const bool is_exact = args.precision == Precision::kFloat, is_few = args.tokens <= kMaxDenseTokens;
    bool needs_float = is_few, needs_half = false;
    for (const LinearJob& job : jobs) {
      const bool is_half = weights_of(job).type == DenseType::kF16;
      needs_float |= is_exact || !is_half;
      needs_half |= !is_few && !is_exact && is_half;
    }
    const float* values = input.input;
    if (needs_float && input.prologue != Prologue::kNone) {
      auto* made = input_.get<float>(args.tokens * columns, generation_);
      cuda::prepare_input(input, made, nullptr, static_cast<int>(args.tokens), columns, stream_);
      values = made;
    }
    auto* halves = needs_half ? half_input_.get<uint16_t>(args.tokens * columns, generation_) : nullptr;
    if (halves) cuda::prepare_input(input, nullptr, halves, static_cast<int>(args.tokens), columns, stream_);
    if (is_few) return dense_pass(values, jobs, 0, static_cast<int>(args.tokens), adds);
    for (const LinearJob& job : jobs) {
      const Weights& weights = weights_of(job);
      const bool is_half = weights.type == DenseType::kF16;
      if (!is_half) {
        gemm(weights.values.as<void>(), values, CUDA_R_32F, weights, job, args.tokens, adds);
      } else if (!is_exact) {
        gemm(weights.values.as<void>(), halves, CUDA_R_16F, weights, job, args.tokens, adds);
      } else {
        const int64_t count = static_cast<int64_t>(weights.rows) * weights.columns;
        auto* wide = reinterpret_cast<float*>(decoded_.get<uint16_t>(2 * count, generation_));
        cuda::widen(weights.values.as<void>(), wide, count, stream_);
        gemm(wide, values, CUDA_R_32F, weights, job, args.tokens, adds);
      }
    }
  }

  void dense_pass(const float* values, std::span<const LinearJob> jobs, int64_t first, int tokens, bool adds) {
    DenseArgs dense;
    dense.columns = weights_of(jobs[0]).columns, dense.tokens = tokens, dense.adds = adds;
    dense.input = values + first * dense.columns;
    for (const LinearJob& job : jobs) {
      const Weights& weights = weights_of(job);
      dense.job[dense.jobs++] = {.weight = weights.values.as<void>(),
                                 .bias = job.bias,
                                 .output = job.output + first * weights.rows,
                                 .rows = weights.rows,
                                 .first_block = dense.blocks,
                                 .type = weights.type};
      dense.blocks += cuda::dense_blocks(weights.rows);
    }
    cuda::dense(dense, stream_);
  }

  std::string name_;
  int multiprocessors_;
  ThreadPool& threads_;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  DeviceMemory blas_workspace_, state_, attend_arrived_;  // state: token, argmax
  std::span<const Stretch> pass_stretches_;
  bool in_pass_ = false;
  uint64_t generation_ = 0;  // grows when memory that a recording may use is freed
  std::map<uint64_t, Recording> recordings_;
  std::map<std::pair<const void*, int64_t>, std::weak_ptr<const Weights>> loaded_;
  std::map<const void*, Table> tables_;
  std::map<std::vector<float>, DeviceMemory> constants_;
  std::optional<CudaQuantizer> quantizer_;
  std::optional<CudaTraining> training_;
  PlanePass plane_pass_;
  Scratch tokens_, scores_, places_, attend_partial_, input_, half_input_, decoded_;
};

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend(ThreadPool& threads) {
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0)
    return fail(ErrorCode::kNoResource, "no NVIDIA card to be used: {}; use --backend cpu",
                status == cudaSuccess ? "none found" : cudaGetErrorString(status));
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess)
    return fail(ErrorCode::kNoResource, "the NVIDIA card does not answer: {}; use --backend cpu", cudaGetErrorString(cudaGetLastError()));
  if (properties.major < kOldestMajor)
    return fail(ErrorCode::kNoResource, "{} has compute capability {}.{}, 8.0 is needed; use --backend cpu", properties.name,
                properties.major, properties.minor);
  auto backend = std::make_unique<CudaBackend>(fmt::format("cuda ({})", properties.name), properties.multiProcessorCount,
                                               properties.major >= 9, threads);
  TQ_TRY(backend->open());
  return backend;
}

}  // namespace tq
