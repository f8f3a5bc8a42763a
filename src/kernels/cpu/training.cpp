#include "kernels/cpu/training.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attend_backward.h"
#include "kernels/cpu/grow.h"
#include "kernels/cpu/least_squares.h"
#include "kernels/cpu/losses.h"
#include "kernels/cpu/matrix.h"
#include "kernels/cpu/reductions.h"
#include "kernels/kv_row.h"

namespace tq::cpu {
namespace {

constexpr int64_t kChunkFloats = 4 << 20;  // of a matrix that is decoded at once

class CpuTraining final : public Training {
 public:
  CpuTraining(ThreadPool& threads, Isa isa)
      : threads_(threads), isa_(isa), kernels_(float_kernels(isa)), loops_(training_kernels(isa)), products_(threads, isa) {}

  Result<std::unique_ptr<Matrix>> prepare_trainable(const PackedTensor& tensor, int64_t expert) override {
    const size_t dims = tensor.shape.size();
    if (dims != 2 && dims != 3) return bad_input("a matrix was expected, the tensor's shape is {}", shape_text(tensor.shape));
    return std::make_unique<CpuMatrix>(decoded_floats(tensor, expert, threads_), isa_);
  }
  float* weights(Matrix& matrix) override { return static_cast<CpuMatrix&>(matrix).floats(); }

  void linear(const LinearBackwardArgs& args) override {
    const auto& matrix = static_cast<const CpuMatrix&>(*args.matrix);
    const int64_t columns = matrix.columns();
    if (!matrix.planes()) return multiply_decoded(matrix, args, args.input_gradient, args.accumulate);
    float* rotated = grow(rotated_, args.tokens * columns);
    multiply_decoded(matrix, args, rotated, false);
    threads_.run(args.tokens, 8, [&](int64_t begin, int64_t end, int) {
      float* from = rotated + begin * columns;
      float* to = args.input_gradient + begin * columns;
      grid::unrotate(from, end - begin, columns, matrix.planes()->sign());
      for (int64_t i = 0; i < (end - begin) * columns; ++i) to[i] = args.accumulate ? to[i] + from[i] : from[i];
    });
  }

  void weight(const WeightGradientArgs& args) override { products_.run(product_of(args), ProductPrecision::kFloat); }

  void norm(const NormBackwardArgs& args) override {
    if (args.weight_gradient) add_norm_weight_gradient(args);
    threads_.run(args.count, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) norm_row(args, i);
    });
  }

  void rotary(const RotaryArgs& args) override {
    const auto half = static_cast<int64_t>(args.inv_freq.size());
    threads_.run(tokens_of(args.stretches), 4, [&](int64_t begin, int64_t end, int) {
      for_rows(args.stretches, begin, end, [&](int64_t row, int64_t position, const Stretch&) {
        for (int64_t i = 0; i < half; ++i) {
          const float angle = static_cast<float>(position) * args.inv_freq[static_cast<size_t>(i)];
          const auto cosine = static_cast<float>(std::cos(static_cast<double>(angle)) * args.magnitude);
          const auto sine = static_cast<float>(std::sin(static_cast<double>(angle)) * args.magnitude);
          for (int64_t h = 0; h < args.heads; ++h) {
            float* head = args.values + row * args.stride + h * args.head_dim;
            const float low = head[i], high = head[i + half];
            head[i] = low * cosine + high * sine;
            head[i + half] = high * cosine - low * sine;
          }
        }
      });
    });
  }

  void attend(const AttendBackwardArgs& args) override { attend_backward(args, kernels_, products_, attend_workspace_); }

  void gated(const GatedBackwardArgs& args) override {
    threads_.run(args.tokens, 4, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t at = t * args.stride;
        loops_.gated_back(args.kind,
                          {args.gate + at, args.up + at, args.gradient + t * args.width, args.gate_gradient + at, args.up_gradient + at},
                          args.width);
      }
    });
  }

  void cross_entropy(const CrossEntropyArgs& args) override { cpu::cross_entropy(args, kernels_, threads_); }
  void divergence(const DivergenceArgs& args) override { cpu::divergence(args, kernels_, loops_, threads_); }
  void sample(const SampleArgs& args) override { cpu::sample(args, kernels_, threads_); }
  void squared_error(const SquaredErrorArgs& args) override { cpu::squared_error(args, loops_, threads_); }
  void softcap(const SoftcapBackwardArgs& args) override { softcap_backward(args, threads_); }
  void scale_rows(const ScaleRowsArgs& args) override { cpu::scale_rows(args, threads_); }
  void row_scale_gradient(const RowScaleGradientArgs& args) override { cpu::row_scale_gradient(args, loops_, threads_); }
  void column_sum(const ColumnSumArgs& args) override { cpu::column_sum(args, threads_); }
  void squares(const SquaresArgs& args) override { cpu::squares(args, threads_); }
  void adam(const AdamArgs& args) override { cpu::adam(args, loops_, threads_); }
  void product(const DenseProductArgs& args) override { cpu::product(args, products_); }
  Result<bool> solve(const SolveArgs& args) override { return cpu::solve(args, threads_); }
  double dot(const float* a, const float* b, int64_t count) override { return cpu::dot(a, b, count, kernels_, threads_); }

 private:
  // output[T, C] (+)= gradient · W in the basis that the matrix decodes to, a chunk of its rows at a time.
  void multiply_decoded(const CpuMatrix& matrix, const LinearBackwardArgs& args, float* output, bool accumulate) {
    const int64_t columns = matrix.columns(), rows = matrix.rows();
    const int64_t chunk = std::min(rows, std::max(kBandRows, kChunkFloats / columns / kBandRows * kBandRows));
    float* decoded = grow(chunk_, chunk * columns);
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t count = std::min(chunk, rows - first);
      threads_.run((count + kBandRows - 1) / kBandRows, 1, [&](int64_t begin, int64_t end, int) {
        const int64_t from = begin * kBandRows, here = std::min(count, end * kBandRows) - from;
        if (matrix.planes()) matrix.decode_rotated(first + from, here, decoded + from * columns);
        else matrix.decode(first + from, here, decoded + from * columns);
      });
      products_.run({.rows = args.tokens,
                     .columns = columns,
                     .depth = count,
                     .left = args.gradient + first,
                     .left_stride = rows,
                     .right = decoded,
                     .right_stride = columns,
                     .output = output,
                     .output_stride = columns,
                     .accumulate = first > 0 || accumulate},
                    ProductPrecision::kFloat);
    }
  }

  float inverse_root(const NormBackwardArgs& args, int64_t i) const {
    const float* x = args.input + i * args.width;
    double squares = 0;  // in double by parts: hidden states have a few huge entries
    for (int64_t k = 0; k < args.width; k += 256) squares += kernels_.dot(x + k, x + k, std::min<int64_t>(256, args.width - k));
    return static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(args.width) + args.epsilon));
  }

  void norm_row(const NormBackwardArgs& args, int64_t i) const {
    const float* x = args.input + i * args.width;
    const float* g = args.gradient + i * args.width;
    const float r = inverse_root(args, i);
    double along = 0;  // sum(g w x)
    for (int64_t k = 0; k < args.width; ++k) along += static_cast<double>(g[k]) * (args.weight[k] + args.offset) * x[k];
    const auto back = static_cast<float>(along * r * r * r / static_cast<double>(args.width));
    float* out = args.input_gradient + i * args.width;
    for (int64_t k = 0; k < args.width; ++k) out[k] = r * g[k] * (args.weight[k] + args.offset) - back * x[k];
  }

  void add_norm_weight_gradient(const NormBackwardArgs& args) {
    float* roots = grow(roots_, args.count);
    threads_.run(args.count, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) roots[i] = inverse_root(args, i);
    });
    threads_.run(args.width, 64, [&](int64_t begin, int64_t end, int) {
      std::vector<double> sum(static_cast<size_t>(end - begin));
      std::vector<float> scaled(sum.size());
      for (int64_t i = 0; i < args.count; ++i) {
        const float* x = args.input + i * args.width + begin;
        for (size_t k = 0; k < scaled.size(); ++k) scaled[k] = roots[i] * x[k];
        loops_.add_products(sum.data(), args.gradient + i * args.width + begin, scaled.data(), nullptr, end - begin);
      }
      for (int64_t k = begin; k < end; ++k) args.weight_gradient[k] += static_cast<float>(sum[static_cast<size_t>(k - begin)]);
    });
  }

  ThreadPool& threads_;
  Isa isa_;
  const FloatKernels& kernels_;
  const TrainingKernels& loops_;
  FloatProducts products_;
  AttendBackwardWorkspace attend_workspace_;
  Buffer<float> chunk_, rotated_, roots_;
};

}  // namespace

std::unique_ptr<Training> make_training(ThreadPool& threads, Isa isa) { return std::make_unique<CpuTraining>(threads, isa); }

}  // namespace tq::cpu
