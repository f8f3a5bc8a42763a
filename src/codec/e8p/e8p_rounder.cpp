#include "codec/e8p/e8p_rounder.h"

namespace tq::e8p {

E8pRounder::E8pRounder(int64_t rows, int64_t columns, int bits, float scale, std::vector<uint8_t> row_sign, ThreadPool* threads)
    : threads_(threads),
      rows_(rows),
      columns_(columns),
      bits_(bits),
      stages_(stages_of(bits)),
      stage_{scale / stages_.scale, stages_.residual_scale > 0 ? 1.0f / stages_.residual_scale : 0.0f},
      absolute_(absolute_table()),
      residual_(residual_table()),
      vectors_(static_cast<size_t>(rows * columns / kWidth)),
      fine_(bits == 4 ? vectors_.size() : 0),
      coarse_(bits == 3 ? vectors_.size() : 0),
      row_sign_(std::move(row_sign)) {}

void E8pRounder::round(int64_t first, const float* targets, float* values) {
  constexpr int64_t kRowBand = 64;  // of a thread at once
  run_on(threads_, rows_, kRowBand, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) round_row(r, first, targets, values);
  });
}

void E8pRounder::round_row(int64_t r, int64_t first, const float* targets, float* values) {
  const float inverse = stage_[0] > 0 ? 1.0f / stage_[0] : 0.0f;
  const auto at = static_cast<size_t>(r * (columns_ / kWidth) + first / kWidth);
  Vector x{}, left{};
  for (size_t i = 0; i < kWidth; ++i) x[i] = targets[static_cast<int64_t>(i) * rows_ + r] * inverse;
  vectors_[at] = encode(absolute_, x);
  Vector value = decode(absolute_.entries.data(), vectors_[at]);
  for (size_t i = 0; i < kWidth; ++i) left[i] = (x[i] - value[i]) * stages_.residual_scale;
  if (bits_ == 4) {
    fine_[at] = encode(absolute_, left);
    const Vector fine = decode(absolute_.entries.data(), fine_[at]);
    for (size_t i = 0; i < kWidth; ++i) value[i] += stage_[1] * fine[i];
  } else if (bits_ == 3) {
    coarse_[at] = encode_residual(residual_, left);
    const float* entry = residual_.entries.data() + coarse_[at] * kWidth;
    for (size_t i = 0; i < kWidth; ++i) value[i] += stage_[1] * entry[i];
  }
  for (size_t i = 0; i < kWidth; ++i) values[static_cast<int64_t>(i) * rows_ + r] = stage_[0] * value[i];
}

std::vector<RoundedPart> E8pRounder::finish() {
  std::vector<RoundedPart> parts = {part_of("vectors", DType::kU16, vectors_)};
  if (bits_ == 4) parts.push_back(part_of("residual", DType::kU16, fine_));
  if (bits_ == 3) parts.push_back(part_of("residual", DType::kU8, coarse_));
  parts.push_back(part_of("stage", DType::kF32, stage_));
  parts.push_back(part_of("row_sign", DType::kU8, row_sign_));
  return parts;
}

}  // namespace tq::e8p
