#include "quantize/float_backend.h"

#include <algorithm>

#include "quantize/blas.h"

namespace tq {
namespace {

constexpr int64_t kBand = 384;  // rows of a matrix that one thread multiplies at a time

class FloatMatrix final : public Matrix {
 public:
  FloatMatrix(const PackedTensor& tensor, int64_t rows, int64_t expert)
      : Matrix(rows, tensor.columns()), tensor_(tensor), first_row_(expert * rows) {}
  std::string kernel(int64_t) const override { return "sgemm"; }
  uint64_t bytes() const override { return static_cast<uint64_t>(rows() * columns()) * sizeof(float); }
  // Decodes at the first call: a head whose input alone is measured never is.
  void decode(ThreadPool& threads) const {
    if (!values_.empty()) return;
    values_ = Buffer<float>::uninitialized(static_cast<size_t>(rows() * columns()));
    threads.run(rows(), 32, [&](int64_t begin, int64_t end, int) {
      decode_rows(tensor_, first_row_ + begin, end - begin, values_.data() + begin * columns());
    });
  }
  const float* row(int64_t r) const { return values_.data() + r * columns(); }

 private:
  PackedTensor tensor_;
  int64_t first_row_;
  mutable Buffer<float> values_;  // [R, C]
};

}  // namespace

Result<std::unique_ptr<Matrix>> FloatBackend::prepare(const PackedTensor& tensor, int64_t expert) {
  TQ_CHECK(tensor.shape.size() >= 2);
  return std::make_unique<FloatMatrix>(tensor, tensor.shape[tensor.shape.size() - 2], expert);
}

void FloatBackend::linear(const LinearArgs& args) {
  use_one_blas_thread();
  struct Band {
    const LinearJob* job;
    int64_t first;
  };
  std::vector<Band> bands;
  for (const LinearJob& job : args.jobs) {
    static_cast<const FloatMatrix&>(*job.matrix).decode(threads_);
    for (int64_t first = 0; first < job.matrix->rows(); first += kBand) bands.push_back({&job, first});
  }
  threads_.run(static_cast<int64_t>(bands.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto& [job, first] = bands[static_cast<size_t>(i)];
      const auto& matrix = static_cast<const FloatMatrix&>(*job->matrix);
      const int64_t rows = matrix.rows(), columns = matrix.columns(), count = std::min(kBand, rows - first);
      float* output = job->output + first;
      for (int64_t t = 0; t < args.tokens; ++t) {
        if (job->bias) std::copy_n(job->bias + first, count, output + t * rows);
        else std::fill_n(output + t * rows, count, 0.0f);
      }
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(args.tokens), static_cast<int>(count),
                  static_cast<int>(columns), 1.0f, args.input, static_cast<int>(columns), matrix.row(first), static_cast<int>(columns),
                  1.0f, output, static_cast<int>(rows));
    }
  });
}

}  // namespace tq
