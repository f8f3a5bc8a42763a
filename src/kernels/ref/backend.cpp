// The oracle behind the Backend interface: matrices decoded to float, operations of ref/ops.h.
#include <vector>

#include "kernels/backend.h"
#include "kernels/kv_row.h"
#include "kernels/ref/matrix.h"
#include "kernels/ref/ops.h"
#include "kernels/ref/training.h"
#include "kernels/score_rows.h"

namespace tq {
namespace {

using ref::RefMatrix;

// Gathers rows that lie `stride` apart into consecutive ones.
std::vector<float> consecutive(const float* rows, int64_t count, int64_t width, int64_t stride) {
  std::vector<float> out;
  for (int64_t i = 0; i < count; ++i) out.insert(out.end(), rows + i * stride, rows + i * stride + width);
  return out;
}

class RefBackend final : public Backend {
 public:
  explicit RefBackend(ThreadPool& threads) : threads_(threads), training_(ref::make_training(threads)) {}
  std::string name() const override { return "ref"; }

  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override {
    TQ_ASSIGN(std::unique_ptr<RefMatrix> matrix, ref::decode_matrix(tensor, expert, threads_));
    return matrix;
  }

  void embed(const EmbedArgs& args) override { embed_rows(args, threads_); }
  void score(const ScoreArgs& args) override { score_rows(args, threads_); }

  void linear(const LinearArgs& args) override {
    for (const LinearJob& job : args.jobs) {
      const auto& matrix = static_cast<const RefMatrix&>(*job.matrix);
      threads_.run(matrix.rows(), 16, [&](int64_t begin, int64_t end, int) {
        std::vector<float> band(static_cast<size_t>(args.tokens * (end - begin)));
        ref::matmul({.input = args.input,
                     .weight = matrix.values.data() + begin * matrix.columns(),
                     .bias = job.bias ? job.bias + begin : nullptr,
                     .output = band.data(),
                     .tokens = args.tokens,
                     .rows = end - begin,
                     .columns = matrix.columns()});
        for (int64_t t = 0; t < args.tokens; ++t)
          std::copy_n(band.data() + t * (end - begin), end - begin, job.output + t * matrix.rows() + begin);
      });
    }
  }

  void norm(const NormArgs& args) override {
    ref::rms_norm({.input = args.input,
                   .weight = args.weight,
                   .output = args.output,
                   .count = args.count,
                   .width = args.width,
                   .epsilon = args.epsilon,
                   .offset = args.offset});
  }

  void rotary(const RotaryArgs& args) override {
    for_rows(args.stretches, 0, tokens_of(args.stretches), [&](int64_t row, int64_t position, const Stretch&) {
      ref::rope({.values = args.values + row * args.stride,
                 .tokens = 1,
                 .heads = args.heads,
                 .head_dim = args.head_dim,
                 .first_position = position,
                 .inv_freq = args.inv_freq,
                 .magnitude = args.magnitude});
    });
  }

  void kv_store(const KvStoreArgs& args) override {
    const KvView& kv = args.kv;
    for_rows(args.stretches, 0, tokens_of(args.stretches), [&](int64_t row, int64_t position, const Stretch& stretch) {
      for (int64_t h = 0; h < kv.kv_heads; ++h) {
        const int64_t at = kv_row_at(kv, stretch, h, position);
        store_kv_row(kv.type, args.key + row * args.stride + h * kv.head_dim, kv.head_dim, kv.key + at);
        store_kv_row(kv.type, args.value + row * args.stride + h * kv.head_dim, kv.head_dim, kv.value + at);
      }
    });
  }

  void attend(const AttendArgs& args) override {
    int64_t first = 0;
    for (const Stretch& stretch : args.stretches) {
      attend_stretch(args, stretch, first);
      first += stretch.tokens;
    }
  }

  void gated(const GatedArgs& args) override {
    for (int64_t t = 0; t < args.tokens; ++t) {
      const auto width = static_cast<size_t>(args.width);
      ref::gated(static_cast<ref::Gate>(args.kind), {args.gate + t * args.stride, width}, {args.up + t * args.stride, width},
                 {args.output + t * args.width, width});
    }
  }

  void add(float* sum, const float* addend, int64_t count) override {
    for (int64_t i = 0; i < count; ++i) sum[i] += addend[i];
  }
  Training* training() override { return training_.get(); }

 private:
  // The rows [first_row, + tokens) of the batch.
  void attend_stretch(const AttendArgs& args, const Stretch& stretch, int64_t first_row) {
    const KvView& kv = args.kv;
    const int64_t end = stretch.first_position + stretch.tokens;
    std::vector<float> key(static_cast<size_t>(end * kv.kv_heads * kv.head_dim));
    std::vector<float> value(key.size());
    for (int64_t p = 0; p < end; ++p) {
      for (int64_t h = 0; h < kv.kv_heads; ++h) {
        const int64_t at = kv_row_at(kv, stretch, h, p), out = (p * kv.kv_heads + h) * kv.head_dim;
        load_kv_row(kv.type, kv.key + at, kv.head_dim, key.data() + out);
        load_kv_row(kv.type, kv.value + at, kv.head_dim, value.data() + out);
      }
    }
    const int64_t width = args.heads * kv.head_dim;
    const std::vector<float> query = consecutive(args.query + first_row * args.stride, stretch.tokens, width, args.stride);
    threads_.run(stretch.tokens, 1, [&](int64_t begin, int64_t stop, int) {
      ref::attention({.query = query.data() + begin * width,
                      .key = key.data(),
                      .value = value.data(),
                      .output = args.output + (first_row + begin) * width,
                      .tokens = stop - begin,
                      .past = stretch.first_position + begin,
                      .heads = args.heads,
                      .kv_heads = kv.kv_heads,
                      .head_dim = kv.head_dim,
                      .window = args.window,
                      .scale = args.scale,
                      .softcap = args.softcap});
    });
  }

  ThreadPool& threads_;
  std::unique_ptr<Training> training_;
};

}  // namespace

std::unique_ptr<Backend> make_ref_backend(ThreadPool& threads) { return std::make_unique<RefBackend>(threads); }

}  // namespace tq
