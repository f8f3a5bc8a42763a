// What stays continuous once the matrices of a model are rounded: the row scales of linears that have some, norms, biases. A walker of
// ModelSpec. Embedding and head are left alone.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "artifact/model.h"

namespace tq {

enum class TunableKind : uint8_t { kRowScale, kNorm, kBias };

// A vector of the model, moved by coordinates `theta` of one size: a row scale is its stored value times exp(theta), a norm or bias its
// stored value + unit * theta.
struct TunableVector {
  TunableKind kind = TunableKind::kNorm;
  std::string owner;  // the linear's or norm's name
  int64_t first = 0;  // place of its coordinates among those of all vectors
  int64_t count = 0;  // of a stack of experts, all of them
  float unit = 1.0f;  // the median magnitude of what the vector multiplies or adds; of a norm with the spec's offset

  std::string name() const;  // of the array in an artifact: OWNER.row_scale, OWNER.weight or OWNER.bias
};

class Tunables {
 public:
  // Of a model with rounded matrices; those of the grid have row scales, E8P's if they are to be tuned.
  explicit Tunables(const Model& model);

  const std::vector<TunableVector>& vectors() const { return vectors_; }
  int64_t count() const { return static_cast<int64_t>(start_.size()); }  // coordinates
  // Null where the owner has no such vector.
  const TunableVector* find(TunableKind kind, const std::string& owner) const;

  // values[count] of a vector at coordinates theta[count()], and as an artifact will store them: row scales rounded to F16.
  std::vector<float> values(const TunableVector& vector, std::span<const float> theta) const;
  std::vector<float> stored(const TunableVector& vector, std::span<const float> theta) const;
  // The model with these coordinates, exactly as the artifact will be.
  Model moved(const Model& model, std::span<const float> theta) const;

 private:
  void add(const Model& model, TunableKind kind, const std::string& owner, float offset);
  std::vector<TunableVector> vectors_;
  std::vector<float> start_;  // the stored values
  std::map<std::pair<TunableKind, std::string>, size_t> places_;
};

// The names of all norms and biases: the plain vectors that tuning may change.
std::vector<std::string> plain_vectors(const ModelSpec& spec);

}  // namespace tq
