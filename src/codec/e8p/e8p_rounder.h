// Rounds eight columns at a time to E8P, with a second stage for what is left at 3 and 4 bits.
#pragma once

#include "base/thread_pool.h"
#include "codec/e8p/e8p.h"
#include "codec/rounder.h"

namespace tq::e8p {

class E8pRounder final : public Rounder {
 public:
  // scale: the root mean square of the transformed matrix. row_sign: kept as it is. threads: for the rows; may be null.
  E8pRounder(int64_t rows, int64_t columns, int bits, float scale, std::vector<uint8_t> row_sign, ThreadPool* threads = nullptr);

  int64_t columns() const override { return kWidth; }
  void round(int64_t first, const float* targets, float* values) override;
  std::vector<RoundedPart> finish() override;  // "vectors", "residual", "stage", "row_sign"

 private:
  void round_row(int64_t r, int64_t first, const float* targets, float* values);
  ThreadPool* threads_;
  int64_t rows_, columns_;
  int bits_;
  Stages stages_;
  std::array<float, 2> stage_;
  Book absolute_, residual_;
  std::vector<uint16_t> vectors_, fine_;
  std::vector<uint8_t> coarse_, row_sign_;
};

}  // namespace tq::e8p
