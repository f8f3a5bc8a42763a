// What the parts of a split backend do together: every transport between their memories is one of these.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace tq {

// How a matrix of values [T, R] is shared out: part i owns the columns [bounds[i], bounds[i + 1]).
struct Shares {
  int64_t tokens = 0, width = 0;
  std::vector<int64_t> bounds;  // [parts + 1]

  int64_t count(size_t part) const { return bounds[part + 1] - bounds[part]; }
  // Whether one part has all columns.
  bool is_of_one() const {
    return std::find(bounds.begin(), bounds.end(), width) - std::find_if(bounds.begin(), bounds.end(), [](int64_t b) { return b > 0; }) ==
           0;
  }
  bool operator==(const Shares&) const = default;
};

class Peers {
 public:
  virtual ~Peers() = default;
  // Called before anything of a part is.
  virtual void enter(size_t part) { (void)part; }
  // whole[j][T, R] of every part j takes the columns of part i from own[i][T, count(i)]. For a single token, or a part that has all
  // columns, own[i] may be whole[i] + bounds[i]; else they do not overlap.
  virtual void gather(const Shares& shares, std::span<const float* const> own, std::span<float* const> whole) = 0;
  // The same of what gated() makes of own gates and ups, rows of both `stride` floats apart; output is ignored. False where it cannot.
  virtual bool gather_gated(const Shares& shares, std::span<const GatedArgs> gated, std::span<float* const> whole) {
    return (void)shares, (void)gated, (void)whole, false;
  }
  // Whether passes that gather can be recorded.
  virtual bool can_record() const { return true; }
  // own[i][T, count(i)] of every part i from its own whole[i][T, R].
  virtual void take(const Shares& shares, std::span<const float* const> whole, std::span<float* const> own) = 0;
};

}  // namespace tq
