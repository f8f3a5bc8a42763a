// The rounding objective of a tap point: the quadratic form of the error, and how a column's error is fed to the columns after it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/device_quantizer.h"
#include "tensor/tensor_view.h"

namespace tq {

struct Objective {
  int64_t columns = 0;
  Buffer<float> hessian;  // [C, C] in the rotated basis, damped
  double damping = 0;     // what was added to its diagonal
  double trace = 0;       // before that; no finite number: of such a moment, which nothing can be rounded under
  int64_t dead = 0;       // inputs that are always zero, as far as they were counted (dead_inputs)
  // [C, C], above the diagonal: with H = U U^T (U upper triangular), feedback[j, k] = U[j, k] / U[k, k]. Rounding columns in order,
  // column k's target is w_k + sum_{j < k} (w_j - q_j) feedback[j, k]: LDLQ (Chee et al. 2023, section 4), the same as GPTQ's update.
  Buffer<float> feedback;
  std::vector<double> diagonal;  // [C] U[k, k]^2: e H e^T = sum_k diagonal[k] (target_k - q_k)^2. Empty: ones
  // Instead of hessian and feedback, the same in a device's memory: what is rounded under it must be rounded there.
  Memory device_hessian, device_feedback;

  bool is_on_device() const { return !device_hessian.empty(); }
};

// H' = Q H Q^T with Q = Had diag(sign), in place. hessian: [C, C] in the original basis, both triangles; sign: [ceil(C / 8)] packed, the
// rotation of the tap point (codec/grid/grid.h).
void rotate_hessian(Buffer<float>& hessian, int64_t columns, const uint8_t* sign, ThreadPool* threads = nullptr);
// Of a Hessian in the basis and order that the rounding works in. damping is relative to the mean diagonal, and raised tenfold until the
// factorisation exists. A Hessian of zeros counts as I, and so does one that is no finite number; its trace says so. band: columns that are
// rounded together; their feedback is that of a block LDL factorisation (feedback[j, k] = (U[j, K] U[K, K]^-1)[k], K the band of k).
// `diagonal` speaks of single columns only. device, unless null, factors where the band is 1 and it has the memory.
Objective factored_objective(Buffer<float> hessian, int64_t columns, double damping, int64_t band, DeviceQuantizer* device = nullptr);
// The same from a moment's sum on a device and the weight of its tokens (SecondMoment::take_sum), rotated, all of it there. Without a value
// the device lacks the memory; the sum is then what it was.
std::optional<Objective> objective_on_device(Memory& sum, double weight, int64_t columns, const uint8_t* sign, double damping,
                                             Backend& device);
// Rows and columns order[0], order[1], …
Buffer<float> permuted(const Buffer<float>& hessian, const std::vector<int64_t>& order);
// Columns by falling diagonal, ties in their order: GPTQ's act-order.
std::vector<int64_t> falling_diagonal(const Buffer<float>& hessian, int64_t columns);
// H = I: no feedback.
Objective identity_objective(int64_t columns);

// Of the diagonal; no finite number where a moment's inputs are none, or overflow.
double trace(const Buffer<float>& hessian, int64_t columns);
// Inputs whose second moment is zero; hessian in the original basis.
int64_t dead_inputs(const Buffer<float>& hessian, int64_t columns);
// Whether the inputs have but one direction, as far as the damping lets others be seen: det(H + d I) is then d^(C-1) (d + tr H), and larger
// by a factor of about 1 + l / d for each other eigenvalue l. False for an identity.
bool is_rank_one(const Objective& objective);

}  // namespace tq
