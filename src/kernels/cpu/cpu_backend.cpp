#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/matrix.h"
#include "kernels/cpu/training.h"

namespace tq {
namespace {

using namespace cpu;

constexpr int64_t kDotTokens = 3;  // up to here a decoded row is multiplied by dot products

class CpuBackend final : public Backend {
 public:
  CpuBackend(ThreadPool& threads, Isa isa)
      : threads_(threads), isa_(isa), kernels_(float_kernels(isa)), training_(make_training(threads, isa)) {}

  std::string name() const override { return fmt::format("cpu ({}, {} threads)", isa_name(isa_), threads_.size()); }

  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override {
    if (tensor.shape.size() != 2 && tensor.shape.size() != 3)
      return bad_input("a matrix was expected, the tensor's shape is {}", shape_text(tensor.shape));
    return std::make_unique<CpuMatrix>(tensor, expert, isa_);
  }

  void embed(const EmbedArgs& args) override { embed_rows(args, threads_); }

  void linear(const LinearArgs& args) override {
    std::vector<PlaneJob> planes;
    std::vector<RowJob> rows;
    bool high_precision = false;
    for (const LinearJob& job : args.jobs) {
      const auto& matrix = static_cast<const CpuMatrix&>(*job.matrix);
      if (matrix.planes() && args.precision == Precision::kInt8 && args.tokens <= kPlaneTokens) {
        planes.push_back({matrix.planes(), job.bias, job.output});
        high_precision |= matrix.planes()->wants_high_precision();
      } else if (multiplies_stored(matrix, args)) {
        rows.push_back({matrix.stored(), job.bias, job.output});
      } else {
        multiply_decoded(matrix, job, args);
      }
    }
    if (!rows.empty()) row_linear(rows, args.input, args.tokens, isa_, threads_, row_workspace_);
    if (planes.empty()) return;
    plane_input_.set(args.input, args.tokens, planes[0].matrix->columns(), planes[0].matrix->sign(), high_precision, threads_);
    plane_linear(planes, plane_input_, isa_, threads_, plane_workspace_);
  }

  void norm(const NormArgs& args) override {
    const auto work = [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        kernels_.norm(args.input + i * args.width, args.weight, args.offset, args.epsilon, args.width, args.output + i * args.width);
    };
    if (args.count * args.width < 1 << 14) work(0, args.count, 0);
    else threads_.run(args.count, 8, work);
  }

  void rotary(const RotaryArgs& args) override {
    const auto half = static_cast<int64_t>(args.inv_freq.size());
    const auto work = [&](int64_t begin, int64_t end, int) {
      std::vector<float> cosine(static_cast<size_t>(half)), sine(static_cast<size_t>(half));
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t i = 0; i < half; ++i) {
          const auto at = static_cast<size_t>(i);
          const float angle = static_cast<float>(args.first_position + t) * args.inv_freq[at];
          cosine[at] = static_cast<float>(std::cos(static_cast<double>(angle)) * args.magnitude);
          sine[at] = static_cast<float>(std::sin(static_cast<double>(angle)) * args.magnitude);
        }
        for (int64_t h = 0; h < args.heads; ++h)
          rotate_head(args.values + t * args.stride + h * args.head_dim, half, cosine.data(), sine.data());
      }
    };
    if (args.tokens == 1) work(0, 1, 0);
    else threads_.run(args.tokens, 4, work);
  }

  void kv_store(const KvStoreArgs& args) override {
    const KvView& kv = args.kv;
    const int64_t row_bytes = kv_row_bytes(kv.type, kv.head_dim);
    const auto work = [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t h = 0; h < kv.kv_heads; ++h) {
          const int64_t row = (h * kv.capacity + args.first_position + t) * row_bytes;
          kernels_.store_kv(kv.type, args.key + t * args.stride + h * kv.head_dim, kv.head_dim, kv.key + row);
          kernels_.store_kv(kv.type, args.value + t * args.stride + h * kv.head_dim, kv.head_dim, kv.value + row);
        }
      }
    };
    if (args.tokens == 1) work(0, 1, 0);
    else threads_.run(args.tokens, 8, work);
  }

  void attend(const AttendArgs& args) override { cpu::attend(args, kernels_, threads_, attend_workspace_); }

  void gated(const GatedArgs& args) override {
    const auto work = [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t)
        kernels_.gated(args.kind, args.gate + t * args.stride, args.up + t * args.stride, args.output + t * args.width, args.width);
    };
    if (args.tokens == 1) work(0, 1, 0);
    else threads_.run(args.tokens, 4, work);
  }

  void add(float* sum, const float* addend, int64_t count) override { kernels_.add_scaled(sum, addend, 1.0f, count); }
  Training* training() override { return training_.get(); }

 private:
  // Blocks round the activations, so that not under kFloat.
  static bool multiplies_stored(const CpuMatrix& matrix, const LinearArgs& args) {
    return matrix.stored() && args.tokens <= kRowTokens && (args.precision == Precision::kInt8 || !is_blocks(matrix.stored()->format));
  }

  static void rotate_head(float* head, int64_t half, const float* cosine, const float* sine) {
    for (int64_t i = 0; i < half; ++i) {
      const float low = head[i], high = head[i + half];
      head[i] = low * cosine[i] - high * sine[i];
      head[i + half] = high * cosine[i] + low * sine[i];
    }
  }

  // Bands of rows decoded to float, then a GEMM. A grid matrix stays in its rotated basis, and the input goes there.
  void multiply_decoded(const CpuMatrix& matrix, const LinearJob& job, const LinearArgs& args) {
    const int64_t columns = matrix.columns(), rows = matrix.rows();
    const float* input = matrix.planes() ? rotated(args, matrix) : args.input;
    const bool is_few = args.tokens <= kDotTokens;
    bands_.resize(static_cast<size_t>(threads_.size()));
    const int64_t bands = (rows + kBandRows - 1) / kBandRows;
    threads_.run(bands, std::max<int64_t>(1, bands / (16 * threads_.size())), [&](int64_t begin, int64_t end, int thread) {
      Buffer<float>& memory = bands_[static_cast<size_t>(thread)];
      if (memory.size() < static_cast<size_t>(2 * kBandRows * columns))
        memory = Buffer<float>::uninitialized(static_cast<size_t>(2 * kBandRows * columns));
      for (int64_t band = begin; band < end; ++band) {
        const int64_t first = band * kBandRows, count = std::min(kBandRows, rows - first);
        float* decoded = memory.data();
        if (matrix.planes()) matrix.decode_rotated(first, count, decoded);
        else matrix.decode(first, count, decoded);
        const float* bias = job.bias ? job.bias + first : nullptr;
        if (is_few) dot_rows(input, decoded, count, bias, job.output + first, rows, args.tokens, columns);
        else gemm(input, decoded, memory.data() + kBandRows * columns, count, bias, job.output + first, rows, args.tokens, columns);
      }
    });
  }

  void dot_rows(const float* input, const float* decoded, int64_t count, const float* bias, float* output, int64_t stride, int64_t tokens,
                int64_t columns) const {
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t r = 0; r < count; ++r)
        output[t * stride + r] = kernels_.dot(input + t * columns, decoded + r * columns, columns) + (bias ? bias[r] : 0.0f);
  }

  void gemm(const float* input, const float* decoded, float* packed, int64_t count, const float* bias, float* output, int64_t stride,
            int64_t tokens, int64_t columns) const {
    kernels_.pack_band(decoded, count, columns, columns, packed);
    kernels_.gemm_band({.input = input,
                        .input_stride = columns,
                        .packed = packed,
                        .bias = bias,
                        .output = output,
                        .output_stride = stride,
                        .tokens = tokens,
                        .columns = columns,
                        .rows = count});
  }

  // The input in the basis of a grid matrix. Jobs of one call share the rotation, which is made once.
  const float* rotated(const LinearArgs& args, const CpuMatrix& matrix) {
    const auto count = static_cast<size_t>(args.tokens * matrix.columns());
    if (&matrix != static_cast<const CpuMatrix*>(args.jobs[0].matrix)) return rotated_.data();
    if (rotated_.size() < count) rotated_ = Buffer<float>::uninitialized(count);
    threads_.run(args.tokens, 8, [&](int64_t begin, int64_t end, int) {
      float* out = rotated_.data() + begin * matrix.columns();
      std::copy_n(args.input + begin * matrix.columns(), (end - begin) * matrix.columns(), out);
      grid::rotate(out, end - begin, matrix.columns(), matrix.planes()->sign());
    });
    return rotated_.data();
  }

  ThreadPool& threads_;
  Isa isa_;
  const FloatKernels& kernels_;
  std::unique_ptr<Training> training_;
  PlaneInput plane_input_;
  PlaneWorkspace plane_workspace_;
  RowWorkspace row_workspace_;
  AttendWorkspace attend_workspace_;
  std::vector<Buffer<float>> bands_;
  Buffer<float> rotated_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(ThreadPool& threads, Isa isa) { return std::make_unique<CpuBackend>(threads, isa); }

}  // namespace tq
