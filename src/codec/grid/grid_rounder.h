// Rounds to the superposition trellis, a column at a time.
#pragma once

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "codec/grid/encoder.h"
#include "codec/rounder.h"

namespace tq::grid {

class GridRounder final : public Rounder {
 public:
  struct Settings {
    int64_t rows = 0, columns = 0;
    std::span<const uint8_t> rates;  // [ceil(R / 32)]
    const TapsByRate* taps = nullptr;
    Isa isa = Isa::kGeneric;
    std::vector<int64_t> order = {};  // the matrix's column that is rounded at place i; empty: i
    ThreadPool* threads = nullptr;    // for tall matrices, see kTallRows; null: the caller's thread
  };
  // scale: [R], the row scales to begin with; 0 for a row of zeros. They are rounded to f16.
  GridRounder(const Settings& settings, std::vector<float> scale);

  int64_t columns() const override { return 1; }
  void round(int64_t first, const float* targets, float* values) override;
  std::vector<float> scale_rows(const std::vector<double>& factor) override;
  std::vector<RoundedPart> finish() override;  // "bits", "row_scale", "rates"

 private:
  void set_scales();
  void encode_tall();
  void for_each(int64_t count, const std::function<void(int64_t, ColumnEncoder&)>& work);

  Layout layout_;
  std::vector<uint8_t> rates_;
  std::vector<int64_t> order_;
  ThreadPool* threads_;
  std::vector<ColumnEncoder> encoders_;  // one a thread
  std::vector<float> scale_, inverse_, metric_, target_, value_;
  std::vector<uint8_t> string_;
  std::vector<int64_t> cuts_;  // of a tall matrix: first rows of its parts
  std::vector<uint32_t> states_;
  Buffer<uint8_t> bits_;
};

}  // namespace tq::grid
