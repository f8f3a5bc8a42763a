// Training operations run on any backend, for comparison.
#pragma once

#include "kernels/matrices.h"
#include "kernels/training.h"

namespace tq {

// Everything that sums, losses and steps write, one after another.
inline std::vector<float> run_sums(Backend& backend, int64_t tokens, int64_t rows) {
  Training& training = *backend.training();
  const auto count = static_cast<size_t>(tokens * rows);
  const std::vector<float> zeros(count), weights(static_cast<size_t>(tokens), 0.7f);
  Floats a(backend, gaussian(tokens * rows, 1)), b(backend, gaussian(tokens * rows, 2)), bias(backend, gaussian(rows, 3)),
      weight(backend, weights), out(backend, gaussian(tokens * rows, 4)), row(backend, gaussian(rows, 5)), token(backend, weights),
      first(backend, zeros), second(backend, zeros);
  std::vector<float> all;
  const auto keep = [&](Floats& values) {
    const std::vector<float> own = values.values();
    all.insert(all.end(), own.begin(), own.end());
  };
  double loss = 1;
  bool finite = false;
  training.squared_error({a.data(), b.data(), weight.data(), out.data(), &loss, tokens, rows, 0.2f});
  keep(out), all.push_back(static_cast<float>(loss));
  training.softcap({a.data(), out.data(), tokens * rows, 4.0f});
  training.scale_rows({out.data(), weight.data(), tokens, rows});
  keep(out);
  training.row_scale_gradient({a.data(), bias.data(), b.data(), row.data(), tokens, rows});
  training.row_scale_gradient({a.data(), nullptr, b.data(), row.data(), tokens, rows});
  training.column_sum({a.data(), row.data(), tokens, rows});
  training.squares({a.data(), token.data(), row.data(), &finite, tokens, rows});
  keep(row), keep(token), all.push_back(finite);
  for (int64_t step = 1; step <= 2; ++step)
    training.adam({.value = b.data(),
                   .gradient = out.data(),
                   .first = first.data(),
                   .second = second.data(),
                   .count = tokens * rows,
                   .step = step,
                   .rate = 0.01f,
                   .gradient_scale = 0.5f});
  keep(b), keep(out), keep(first), keep(second);
  all.push_back(static_cast<float>(training.dot(a.data(), b.data(), tokens * rows)));
  return all;
}

// A product, the same added to what is there, and the solution of normal equations, [R, C]; then that of a matrix that is not definite: 1
// or 0.
inline std::vector<float> run_least_squares(Backend& backend, int64_t rows, int64_t columns, double ridge) {
  Training& training = *backend.training();
  const int64_t depth = columns + 3;
  Floats left(backend, gaussian(rows * depth, 1)), right(backend, gaussian(depth * columns, 2)), out(backend, gaussian(rows * columns, 3));
  std::vector<float> all;
  for (const bool accumulate : {false, true}) {
    training.product({left.data(), right.data(), out.data(), rows, columns, depth, accumulate});
    const std::vector<float> own = out.values();
    all.insert(all.end(), own.begin(), own.end());
  }
  const std::vector<float> x = gaussian(depth * columns, 4);
  std::vector<float> gram(static_cast<size_t>(columns * columns), NAN);  // what is above the diagonal is not read
  for (int64_t i = 0; i < columns; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = i == j ? 1.0 : 0.0;
      for (int64_t t = 0; t < depth; ++t)
        sum += static_cast<double>(x[static_cast<size_t>(t * columns + i)]) * x[static_cast<size_t>(t * columns + j)];
      gram[static_cast<size_t>(i * columns + j)] = static_cast<float>(sum);
    }
  Floats matrix(backend, gram);
  all.push_back(*training.solve({matrix.data(), out.data(), rows, columns, ridge}));
  const std::vector<float> own = out.values();
  all.insert(all.end(), own.begin(), own.end());
  Floats indefinite(backend, std::vector<float>(static_cast<size_t>(columns * columns), -1.0f));
  all.push_back(*training.solve({indefinite.data(), out.data(), rows, columns, 0}));
  return all;
}

// Whether squares() calls a gradient finite of which one value is replaced.
inline bool is_found_finite(Backend& backend, float value) {
  std::vector<float> g(200, 1.0f);
  g[137] = value;
  Floats gradient(backend, g);
  bool finite = false;
  backend.training()->squares({.gradient = gradient.data(), .finite = &finite, .tokens = 10, .rows = 20});
  return finite;
}

// The floats of a matrix that may be trained, then those that replace them multiplied forward and back.
inline std::vector<float> run_trainable(Backend& backend, const PackedTensor& tensor, int64_t tokens) {
  Training& training = *backend.training();
  const int64_t rows = tensor.rows(), columns = tensor.columns();
  const auto matrix = training.prepare_trainable(tensor).value();
  float* weights = training.weights(*matrix);
  std::vector<float> all(static_cast<size_t>(rows * columns));
  backend.download(all.data(), weights, all.size() * sizeof(float));
  const std::vector<float> replaced = gaussian(rows * columns, 21);
  backend.upload(weights, replaced.data(), replaced.size() * sizeof(float));
  Floats input(backend, gaussian(tokens * columns, 22)), gradient(backend, gaussian(tokens * rows, 23)),
      output(backend, gaussian(tokens * rows, 24)), input_gradient(backend, gaussian(tokens * columns, 25));
  const LinearJob job{matrix.get(), nullptr, output.data()};
  backend.linear({.input = input.data(), .tokens = tokens, .jobs = {&job, 1}, .precision = Precision::kFloat});
  training.linear({.matrix = matrix.get(), .gradient = gradient.data(), .input_gradient = input_gradient.data(), .tokens = tokens});
  for (Floats* each : {&output, &input_gradient}) {
    const std::vector<float> own = each->values();
    all.insert(all.end(), own.begin(), own.end());
  }
  return all;
}

}  // namespace tq
