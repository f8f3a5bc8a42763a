#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/bands/band_linear.h"
#include "kernels/cpu/digits/digit_linear.h"
#include "kernels/cpu/matrix.h"
#include "kernels/cpu/tile/tile_linear.h"
#include "kernels/cpu/training.h"
#include "kernels/kv_row.h"
#include "kernels/score_rows.h"

namespace tq {
namespace {

using namespace cpu;

constexpr int64_t kDotTokens = 3;  // up to here a decoded row is multiplied by dot products
constexpr int64_t kDotRows = 16;
// Rows at a time of a product that must not depend on their number: the kernels for few tokens treat each by itself.
constexpr int64_t kInvariantTokens = std::min(kPlaneTokens, kRowTokens);

class CpuBackend final : public Backend {
 public:
  CpuBackend(ThreadPool& threads, Isa isa)
      : threads_(threads), isa_(isa), kernels_(float_kernels(isa)), digits_(digit_kernels(isa)), training_(make_training(threads, isa)) {}

  std::string name() const override { return fmt::format("cpu ({}, {} threads)", isa_name(isa_), threads_.size()); }
  std::string kind() const override { return fmt::format("cpu ({})", isa_name(isa_)); }
  Isa isa() const override { return isa_; }

  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override {
    if (tensor.shape.size() != 2 && tensor.shape.size() != 3)
      return bad_input("a matrix was expected, the tensor's shape is {}", shape_text(tensor.shape));
    return std::make_unique<CpuMatrix>(tensor, expert, isa_);
  }

  void embed(const EmbedArgs& args) override { embed_rows(args, threads_); }
  void score(const ScoreArgs& args) override { score_rows(args, threads_); }

  void linear(const LinearArgs& args) override {
    if (args.precision != Precision::kInvariant) return multiply(args);
    for (int64_t first = 0; first < args.tokens; first += kInvariantTokens) {
      std::vector<LinearJob> jobs(args.jobs.begin(), args.jobs.end());
      for (LinearJob& job : jobs) job.output += first * job.matrix->rows();
      multiply({.input = args.input + first * jobs[0].matrix->columns(),
                .tokens = std::min(kInvariantTokens, args.tokens - first),
                .jobs = jobs,
                .precision = args.precision});
    }
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
    const int64_t tokens = tokens_of(args.stretches);
    const auto work = [&](int64_t begin, int64_t end, int) {
      std::vector<float> cosine(static_cast<size_t>(half)), sine(static_cast<size_t>(half));
      for_rows(args.stretches, begin, end, [&](int64_t row, int64_t position, const Stretch&) {
        for (int64_t i = 0; i < half; ++i) {
          const auto at = static_cast<size_t>(i);
          const float angle = static_cast<float>(position) * args.inv_freq[at];
          cosine[at] = static_cast<float>(std::cos(static_cast<double>(angle)) * args.magnitude);
          sine[at] = static_cast<float>(std::sin(static_cast<double>(angle)) * args.magnitude);
        }
        for (int64_t h = 0; h < args.heads; ++h)
          rotate_head(args.values + row * args.stride + h * args.head_dim, half, cosine.data(), sine.data());
      });
    };
    if (tokens == 1) work(0, 1, 0);
    else threads_.run(tokens, 4, work);
  }

  void kv_store(const KvStoreArgs& args) override {
    const KvView& kv = args.kv;
    const int64_t tokens = tokens_of(args.stretches);
    const auto work = [&](int64_t begin, int64_t end, int) {
      for_rows(args.stretches, begin, end, [&](int64_t row, int64_t position, const Stretch& stretch) {
        for (int64_t h = 0; h < kv.kv_heads; ++h) {
          const int64_t at = kv_row_at(kv, stretch, h, position);
          kernels_.store_kv(kv.type, args.key + row * args.stride + h * kv.head_dim, kv.head_dim, kv.key + at);
          kernels_.store_kv(kv.type, args.value + row * args.stride + h * kv.head_dim, kv.head_dim, kv.value + at);
        }
      });
    };
    if (tokens == 1) work(0, 1, 0);
    else threads_.run(tokens, 8, work);
  }

  void attend(const AttendArgs& args) override { cpu::attend(args, kernels_, digits_, threads_, attend_workspace_); }

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
  // What jobs of one call share: the input packed for bands, or rotated.
  struct Made {
    bool is_packed = false, is_rotated = false;
  };
  void multiply(const LinearArgs& args) {
    std::vector<PlaneJob> planes;
    std::vector<RowJob> rows;
    bool high_precision = false;
    Made made;
    for (const LinearJob& job : args.jobs) {
      const auto& matrix = static_cast<const CpuMatrix&>(*job.matrix);
      if (matrix.planes() && !has_float_activations(args.precision)) {
        planes.push_back({matrix.planes(), job.bias, job.output});
        high_precision |= matrix.planes()->wants_high_precision();
      } else if (multiplies_stored(matrix, args)) {
        rows.push_back({matrix.stored(), job.bias, job.output});
      } else {
        multiply_decoded(matrix, job, args, made);
      }
    }
    if (!rows.empty()) row_linear(rows, args.input, args.tokens, isa_, threads_, row_workspace_);
    if (planes.empty()) return;
    plane_input_.set(args.input, args.tokens, planes[0].matrix->columns(), planes[0].matrix->sign(), high_precision, isa_, threads_);
    if (args.tokens <= kPlaneTokens) plane_linear(planes, plane_input_, isa_, threads_, plane_workspace_);
    else tile_linear(planes, plane_input_, isa_, threads_, tile_workspace_);
  }

  // Blocks round the activations, so that not where they are floats.
  static bool multiplies_stored(const CpuMatrix& matrix, const LinearArgs& args) {
    return matrix.stored() && args.tokens <= kRowTokens && (!has_float_activations(args.precision) || !is_blocks(matrix.stored()->format));
  }

  static void rotate_head(float* head, int64_t half, const float* cosine, const float* sine) {
    for (int64_t i = 0; i < half; ++i) {
      const float low = head[i], high = head[i + half];
      head[i] = low * cosine[i] - high * sine[i];
      head[i + half] = high * cosine[i] + low * sine[i];
    }
  }

  // Bands of rows decoded to float. A grid matrix stays in its rotated basis, and the input goes there. The jobs of a call share the
  // packed input; `packed` tells whether it is there.
  void multiply_decoded(const CpuMatrix& matrix, const LinearJob& job, const LinearArgs& args, Made& made) {
    const bool is_grid = matrix.planes() != nullptr;
    if (is_grid && !made.is_rotated) rotate(args, matrix), made.is_rotated = true;
    const float* input = is_grid ? rotated_.data() : args.input;
    const auto decode = [&](int64_t begin, int64_t count, float* out) {
      if (is_grid) matrix.decode_rotated(begin, count, out);
      else matrix.decode(begin, count, out);
    };
    if (args.tokens <= kDotTokens || args.precision == Precision::kInvariant) return dot_decoded(matrix, job, args, input, decode);
    const BandJob band{.rows = matrix.rows(), .decode = decode, .bias = job.bias, .output = job.output};
    const bool is_new = !made.is_packed || is_grid;
    made.is_packed = !is_grid;
    if (digits_) {
      if (is_new) digit_input_.pack(input, args.tokens, matrix.columns(), *digits_, threads_);
      return digit_linear(band, digit_input_, *digits_, threads_, digit_workspace_);
    }
    if (is_new) band_input_.pack(input, args.tokens, matrix.columns(), kernels_, threads_);
    band_linear(band, band_input_, kernels_, threads_, band_workspace_);
  }

  template <typename Decode>
  void dot_decoded(const CpuMatrix& matrix, const LinearJob& job, const LinearArgs& args, const float* input, Decode decode) {
    const int64_t columns = matrix.columns(), rows = matrix.rows();
    band_workspace_.of_thread.resize(static_cast<size_t>(threads_.size()));
    threads_.run(rows, kDotRows, [&](int64_t begin, int64_t end, int thread) {
      Buffer<float>& memory = band_workspace_.of_thread[static_cast<size_t>(thread)].rows;
      if (memory.size() < static_cast<size_t>(kDotRows * columns))
        memory = Buffer<float>::uninitialized(static_cast<size_t>(kDotRows * columns));
      decode(begin, end - begin, memory.data());
      for (int64_t t = 0; t < args.tokens; ++t)
        for (int64_t r = begin; r < end; ++r)
          job.output[t * rows + r] =
              kernels_.dot(input + t * columns, memory.data() + (r - begin) * columns, columns) + (job.bias ? job.bias[r] : 0.0f);
    });
  }

  // The input in the basis of a grid matrix.
  void rotate(const LinearArgs& args, const CpuMatrix& matrix) {
    const auto count = static_cast<size_t>(args.tokens * matrix.columns());
    if (rotated_.size() < count) rotated_ = Buffer<float>::uninitialized(count);
    threads_.run(args.tokens, 8, [&](int64_t begin, int64_t end, int) {
      float* out = rotated_.data() + begin * matrix.columns();
      std::copy_n(args.input + begin * matrix.columns(), (end - begin) * matrix.columns(), out);
      for (int64_t t = 0; t < end - begin; ++t)
        plane_kernels(isa_).rotate(out + t * matrix.columns(), matrix.columns(), matrix.planes()->sign());
    });
  }

  ThreadPool& threads_;
  Isa isa_;
  const FloatKernels& kernels_;
  const DigitKernels* digits_;  // or null
  std::unique_ptr<Training> training_;
  PlaneInput plane_input_;
  PlaneWorkspace plane_workspace_;
  RowWorkspace row_workspace_;
  AttendWorkspace attend_workspace_;
  TileWorkspace tile_workspace_;
  BandInput band_input_;
  BandWorkspace band_workspace_;
  DigitInput digit_input_;
  DigitWorkspace digit_workspace_;
  Buffer<float> rotated_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(ThreadPool& threads, Isa isa) { return std::make_unique<CpuBackend>(threads, isa); }

}  // namespace tq
