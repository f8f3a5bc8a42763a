// Rounders: the side of a codec that chooses codes. The loop that feeds errors back is the quantizer's and the same for all of them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tensor/tensor_view.h"

namespace tq {

// An array that a codec stores for a matrix: "P.<name>" of the artifact.
struct RoundedPart {
  std::string name;
  DType dtype;
  std::vector<std::byte> bytes;
};

// values: contiguous, as span takes them.
template <typename Values>
RoundedPart part_of(const char* name, DType dtype, const Values& values) {
  const auto bytes = std::as_bytes(std::span(values.data(), values.size()));
  return {name, dtype, {bytes.begin(), bytes.end()}};
}

// Rounds one matrix [R, C], bands of columns in order. Targets and values are kept column by column: [columns, R].
class Rounder {
 public:
  virtual ~Rounder() = default;
  // Columns of a band: 1 for scalar codes and the grid, more for codes of vectors.
  virtual int64_t columns() const = 0;
  // Columns that share parameters, chosen when the first of them is reached; a multiple of columns(), 0: none.
  virtual int64_t group() const { return 0; }
  // targets: [group, R], the best weights of these columns for the errors of all before them, if they were not to be rounded.
  virtual void begin_group(int64_t first, const float* targets) { (void)first, (void)targets; }
  // Chooses the codes of columns [first, first + columns()), in place of earlier ones if there are any. values: what decoding them yields.
  virtual void round(int64_t first, const float* targets, float* values) = 0;
  // Multiplies every decoded row, also of what is rounded later, by a factor, [R], where the codec can; returns what it really multiplied
  // by (scales have few bits).
  virtual std::vector<float> scale_rows(const std::vector<double>& factor) { return std::vector<float>(factor.size(), 1.0f); }
  // Called once, after the last band.
  virtual std::vector<RoundedPart> finish() = 0;
};

}  // namespace tq
