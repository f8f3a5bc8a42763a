// Checks the device's rounding of grid matrices against the CPU's encoder, then times it. Usage: cuda_encoder [check|time]
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/float16.h"
#include "base/rng.h"
#include "codec/grid/encoder.h"
#include "codec/grid/taps.h"
#include "kernels/cuda/encode/grid_rounder.h"

namespace {

using namespace tq;

struct Problem {
  grid::Layout layout;
  std::vector<float> weight, scale, feedback, hessian;  // [C, R] in the rotated basis, [R], [C, C], [C, C]
  std::vector<double> diagonal = {};                    // [C]
  std::vector<uint8_t> sign = {};
  std::vector<float> rows = {};  // [R, C] in the original basis
};

// What the device makes the scales from.
void finish_problem(Problem& out) {
  const int64_t rows = out.layout.rows, columns = out.layout.columns;
  out.sign.resize(static_cast<size_t>(columns + 7) / 8), out.rows.resize(out.weight.size()), out.scale.resize(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t k = 0; k < columns; ++k) {
      const float w = out.weight[static_cast<size_t>(k * rows + r)];
      out.rows[static_cast<size_t>(r * columns + k)] = w, sum += static_cast<double>(w) * w;
    }
    out.scale[static_cast<size_t>(r)] = f16_to_float(float_to_f16(static_cast<float>(std::sqrt(sum / static_cast<double>(columns)))));
  }
  grid::unrotate(out.rows.data(), rows, columns, out.sign.data());
}

float gaussian(Rng& rng) {
  const double u = (static_cast<double>(rng.bits() >> 11) + 0.5) * 0x1p-53, v = static_cast<double>(rng.bits() >> 11) * 0x1p-53;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
}

// Weights of a unit Gaussian; with a correlated Hessian (an autoregression along the columns) if asked.
Problem make_problem(int64_t rows, int64_t columns, std::vector<uint8_t> rates, bool correlated, uint64_t seed) {
  Problem out{grid::Layout(rows, columns, rates), {}, {}, {}, {}};
  Rng rng(seed);
  out.weight.resize(static_cast<size_t>(rows * columns));
  for (float& w : out.weight) w = gaussian(rng);
  finish_problem(out);
  if (!correlated) return out;
  // H[i, j] = rho^|i - j|: U of H = U U^T has U[j, k] / U[k, k] = rho^(k - j), so the feedback of the next column alone would be exact.
  constexpr float kRho = 0.9f;
  out.diagonal.assign(static_cast<size_t>(columns), 1 - static_cast<double>(kRho) * kRho);
  out.diagonal.back() = 1;
  out.hessian.resize(static_cast<size_t>(columns * columns)), out.feedback.resize(out.hessian.size());
  for (int64_t i = 0; i < columns; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      out.hessian[static_cast<size_t>(i * columns + j)] = std::pow(kRho, static_cast<float>(std::abs(i - j)));
      if (j > i) out.feedback[static_cast<size_t>(i * columns + j)] = std::pow(kRho, static_cast<float>(j - i));
    }
  return out;
}

grid::TapsByRate taps_for(const std::vector<std::pair<int, int>>& windows) {
  grid::TapsByRate taps;
  for (const auto& [rate, window] : windows) taps[static_cast<size_t>(rate)] = grid::default_taps(rate, window);
  return taps;
}

RoundMatrix matrix_of(const Problem& problem) {
  const auto read = [&problem](int64_t first, int64_t count, float* out) {
    std::copy_n(problem.rows.data() + first * problem.layout.columns, count * problem.layout.columns, out);
  };
  return {.rows = problem.layout.rows,
          .rate = problem.layout.rate.data(),
          .read = read,
          .sign = problem.sign.data(),
          .feedback = problem.feedback.empty() ? nullptr : problem.feedback.data(),
          .hessian = problem.hessian.empty() ? nullptr : problem.hessian.data(),
          .diagonal = problem.diagonal.empty() ? nullptr : problem.diagonal.data()};
}

// tr(E H E^T) / tr(W H W^T) in dB.
double decibel(const RowSums& sums) {
  double error = 0, energy = 0;
  for (size_t r = 0; r < sums.own.size(); ++r) error += sums.own[r] - 2 * sums.cross[r] + sums.norm[r], energy += sums.own[r];
  return 10 * std::log10(energy / error);
}

// The CPU's loop: columns in order with feedback.
std::vector<float> round_on_host(const Problem& problem, const grid::TapsByRate& taps) {
  const int64_t rows = problem.layout.rows, columns = problem.layout.columns;
  grid::ColumnEncoder encoder(problem.layout, taps);
  std::vector<float> value(problem.weight.size()), target(static_cast<size_t>(rows)), weight(static_cast<size_t>(rows), 1.0f);
  std::vector<uint8_t> string(static_cast<size_t>(problem.layout.plane_rows));
  for (int64_t k = 0; k < columns; ++k) {
    std::copy_n(problem.weight.data() + k * rows, rows, target.data());
    for (int64_t j = 0; j < k && !problem.feedback.empty(); ++j) {
      const float factor = problem.feedback[static_cast<size_t>(j * columns + k)];
      if (factor < 1e-6f) continue;
      for (int64_t r = 0; r < rows; ++r)
        target[static_cast<size_t>(r)] +=
            factor * (problem.weight[static_cast<size_t>(j * rows + r)] - value[static_cast<size_t>(j * rows + r)]);
    }
    for (int64_t r = 0; r < rows; ++r) target[static_cast<size_t>(r)] /= problem.scale[static_cast<size_t>(r)];
    encoder.encode(target.data(), weight.data(), string.data(), value.data() + k * rows);
    for (int64_t r = 0; r < rows; ++r) value[static_cast<size_t>(k * rows + r)] *= problem.scale[static_cast<size_t>(r)];
  }
  return value;
}

// Row products with the Hessian (the identity when there is none), as the device returns them.
void products(const Problem& problem, const std::vector<float>& value, RowSums& out) {
  const int64_t rows = problem.layout.rows, columns = problem.layout.columns;
  out.cross.assign(static_cast<size_t>(rows), 0), out.norm = out.cross, out.own = out.cross;
  for (int64_t i = 0; i < columns; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const double h = problem.hessian.empty() ? (i == j ? 1.0 : 0.0) : problem.hessian[static_cast<size_t>(i * columns + j)];
      if (h == 0) continue;
      for (int64_t r = 0; r < rows; ++r) {
        const double w = problem.weight[static_cast<size_t>(i * rows + r)], v = value[static_cast<size_t>(j * rows + r)];
        out.cross[static_cast<size_t>(r)] += h * w * v;
        out.norm[static_cast<size_t>(r)] += h * value[static_cast<size_t>(i * rows + r)] * v;
        out.own[static_cast<size_t>(r)] += h * w * problem.weight[static_cast<size_t>(j * rows + r)];
      }
    }
}

struct Case {
  const char* name;
  std::vector<int64_t> rows;  // of the batch's matrices; the last is checked
  int64_t columns;
  std::vector<std::pair<int, int>> windows;  // rates and their windows; ranges take the rates in turn
  bool correlated;
};

bool check(const Case& each, cuda::RowStaging& staging) {
  const grid::TapsByRate taps = taps_for(each.windows);
  std::vector<Problem> problems;
  for (const int64_t rows : each.rows) {
    std::vector<uint8_t> rates;
    for (int64_t i = 0; i < (rows + 31) / 32; ++i)
      rates.push_back(static_cast<uint8_t>(each.windows[static_cast<size_t>(i) % each.windows.size()].first));
    problems.push_back(make_problem(rows, each.columns, rates, each.correlated, 7 + static_cast<uint64_t>(rows)));
  }
  RoundBatch batch{.matrices = {}, .columns = each.columns, .taps = {}};
  for (const Problem& problem : problems) batch.matrices.push_back(matrix_of(problem));
  for (size_t rate = 0; rate < 9; ++rate) batch.taps[rate] = taps[rate];
  std::vector<RoundedMatrix> rounded;
  const std::string error = cuda::round_on_device(batch, staging, rounded);
  if (!error.empty()) return fmt::print("{}: {}\n", each.name, error), false;
  const Problem& problem = problems.back();
  const RoundedMatrix& last = rounded.back();
  const RowSums& sums = last.under_hessian;
  // The packed bits say what the device's sums say.
  std::vector<float> value(problem.weight.size());
  std::vector<uint8_t> string(static_cast<size_t>(problem.layout.plane_rows));
  bool same = last.bits.size() == problem.layout.bytes();
  for (int64_t k = 0; k < each.columns && same; ++k) {
    for (int64_t p = 0; p < problem.layout.plane_rows; ++p)
      string[static_cast<size_t>(p)] = last.bits[problem.layout.byte_of(p, k)] >> grid::Layout::bit_of(p) & 1;
    float* column = value.data() + k * problem.layout.rows;
    grid::ring_values(problem.layout, taps, string.data(), column);
    for (int64_t r = 0; r < problem.layout.rows; ++r) column[r] *= last.scale[static_cast<size_t>(r)];
  }
  RowSums decoded, host;
  products(problem, value, decoded);
  products(problem, round_on_host(problem, taps), host);
  const double device_db = decibel(sums), decoded_db = decibel(decoded);
  const double host_db = decibel(host);
  same = same && std::abs(device_db - decoded_db) < 2e-3;
  const bool good = same && device_db > host_db - 0.06;
  fmt::print("{:<28} device {:.3f} dB, its bits {:.3f} dB, CPU {:.3f} dB{}\n", each.name, device_db, decoded_db, host_db,
             good ? "" : "  WRONG");
  return good;
}

void time(const char* name, const std::vector<int64_t>& rows, int64_t columns, int rate, int window, cuda::RowStaging& staging) {
  std::vector<Problem> problems;
  Rng rng(1);
  for (const int64_t each : rows)
    problems.push_back(make_problem(each, columns, std::vector<uint8_t>(static_cast<size_t>((each + 31) / 32), static_cast<uint8_t>(rate)),
                                    false, rng.bits()));
  const std::vector<float> square(static_cast<size_t>(columns * columns), 1e-6f);
  const std::vector<double> ones(static_cast<size_t>(columns), 1.0);
  RoundBatch batch{.matrices = {}, .columns = columns, .taps = {}};
  int64_t weights = 0;
  for (const Problem& problem : problems) {
    batch.matrices.push_back(matrix_of(problem));
    batch.matrices.back().feedback = square.data(), batch.matrices.back().diagonal = ones.data();
    weights += problem.layout.rows * columns;
  }
  batch.taps[rate] = grid::default_taps(rate, window);
  std::vector<RoundedMatrix> rounded;
  for (int repeat = 0; repeat < 2; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    const std::string error = cuda::round_on_device(batch, staging, rounded);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!error.empty()) return fmt::print("{}: {}\n", name, error);
    if (repeat == 1)
      fmt::print("{:<34} K{} L{}: {:.2f} s, {:.2f} ns a weight, {:.2f} T branches/s\n", name, rate, window, seconds,
                 seconds * 1e9 / static_cast<double>(weights), static_cast<double>(weights) * std::exp2(window) / seconds / 1e12);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int count, char** words) {
  const std::string mode = count > 1 ? words[1] : "";
  bool good = true;
  ThreadPool threads;
  cuda::RowStaging staging(threads);
  if (mode != "time") {
    const Case cases[] = {{"K2 L14, 896 rows", {128, 896}, 64, {{2, 14}}, false},
                          {"K3 L15, 4864 rows", {896, 4864}, 32, {{3, 15}}, false},
                          {"K3 L15, 896 rows", {4864, 896}, 64, {{3, 15}}, false},
                          {"K3 L15, 128 rows", {896, 128}, 256, {{3, 15}}, false},
                          {"K3 L15, 100 rows", {896, 100}, 256, {{3, 15}}, false},
                          {"K4 L16, 896 rows", {896}, 64, {{4, 16}}, false},
                          {"K4 L16, 128 rows", {128}, 256, {{4, 16}}, false},
                          {"K3 L12, 896 rows", {896}, 64, {{3, 12}}, false},
                          {"K3 L9, 896 rows", {896}, 64, {{3, 9}}, false},
                          {"K5 L15, 896 rows", {896}, 32, {{5, 15}}, false},
                          {"K6 L12, 896 rows", {896}, 32, {{6, 12}}, false},
                          {"K8 L12, 896 rows", {896}, 32, {{8, 12}}, false},
                          {"K3 L15 and K4 L16, 896 rows", {896}, 64, {{3, 15}, {4, 16}}, false},
                          {"K2 L14 and K5 L15, 896 rows", {896}, 64, {{2, 14}, {5, 15}}, false},
                          {"K3 L15, correlated", {320}, 300, {{3, 15}}, true},
                          {"K4 L12, correlated", {896}, 140, {{4, 12}}, true}};
    for (const Case& each : cases) good &= check(each, staging);
  }
  if (mode != "check") {
    const std::vector<int64_t> qkv = {896, 128, 128}, gate_up = {4864, 4864};
    const auto times = [](const std::vector<int64_t>& rows, int n) {
      std::vector<int64_t> out;
      for (int i = 0; i < n; ++i) out.insert(out.end(), rows.begin(), rows.end());
      return out;
    };
    time("0.5B gate, up, one layer", gate_up, 896, 3, 15, staging);
    time("0.5B gate, up, 24 layers", times(gate_up, 24), 896, 3, 15, staging);
    time("0.5B q, k, v, 24 layers", times(qkv, 24), 896, 3, 15, staging);
    time("0.5B down, 24 layers", times({896}, 24), 4864, 3, 15, staging);
    time("0.5B gate, up, 24 layers", times(gate_up, 24), 896, 4, 16, staging);
    time("0.5B gate, up, 24 layers", times(gate_up, 24), 896, 2, 14, staging);
    time("8B gate, up, one layer", {14336, 14336}, 4096, 3, 15, staging);
    time("8B gate, up, one layer", {14336, 14336}, 4096, 3, 12, staging);
  }
  return good ? 0 : 1;
}
