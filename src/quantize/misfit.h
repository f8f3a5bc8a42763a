// How far what a linear reads, or what its block gives, has moved away from the original model: the sums that least squares need.
#pragma once

#include <span>
#include <string>

#include "graph/backward.h"
#include "graph/forward.h"
#include "quantize/statistics.h"

namespace tq {

// Linears of one tap point. If they read a norm: e is what the original's norm gives less x, what they read now. If they add to the hidden
// state: e is the original's hidden state behind the block less the present one.
struct MisfitPlace {
  size_t block = 0;  // of the layer
  std::string tap;
  bool is_output = false;
  int64_t rows = 0, columns = 0;  // of e, of x
};

// Sums over tokens, in a backend's memory.
struct MisfitSums {
  Memory misfit;      // [R, C] sum u e x^T
  Memory moment;      // [C, C] sum u x x^T
  double weight = 0;  // sum u
  int64_t tokens = 0;
};

// Adds one sequence after another to the sums.
class MisfitMeter {
 public:
  // length: of the sequences. Errors: kNoResource.
  static Result<MisfitMeter> create(const MisfitPlace& place, int64_t length, Backend& backend);

  // One sequence: where its values are. hidden is what the forward pass updates in place; original is e's part of the original model, [T,
  // R]; weight: u, [T], the backend's, and on the host.
  struct Sequence {
    const float* hidden = nullptr;
    const float* original = nullptr;
    const float* weight = nullptr;
    std::span<const float> host_weight;
    bool is_held_out = false;
  };
  // What the place's tap sees of it.
  void see(const float* input, const Sequence& sequence);
  // Behind the block, where the place is its output: `hidden` has been updated.
  void finish(const Sequence& sequence);

  const MisfitPlace& place() const { return place_; }
  // Of training sequences the misfit alone: their moment is among the statistics.
  const MisfitSums& training() const { return training_; }
  const MisfitSums& held_out() const { return held_out_; }

 private:
  MisfitMeter(const MisfitPlace& place, int64_t length, Backend& backend) : place_(place), length_(length), backend_(&backend) {}
  void add(const float* now, const Sequence& sequence);

  MisfitPlace place_;
  int64_t length_;
  Backend* backend_;
  MisfitSums training_, held_out_;
  Memory input_, error_;  // [T, C], [T, R] of one sequence
};

}  // namespace tq
