// Adam (Kingma and Ba 2015) over a vector of coordinates in the host's memory.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tq {

struct AdamSettings {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-10;
};

struct Adam {
  std::vector<float> first, second;  // running means of the gradient and of its square
  int64_t steps = 0;

  explicit Adam(int64_t count = 0) : first(static_cast<size_t>(count)), second(static_cast<size_t>(count)) {}
  // One step: theta -= rate * mean / (sqrt(mean square) + epsilon), both means free of their start at zero. A rate a coordinate.
  void step(std::span<const float> gradient, std::span<const float> rate, std::span<float> theta, const AdamSettings& settings = {});
};

// Half a cosine: 1 where nothing is done, `last` where all is.
double half_cosine(double done, double last);
// A factor for the rate of step `step` of `steps`: a linear rise over the first tenth, then half a cosine down to a twentieth.
double rate_factor(int64_t step, int64_t steps);

}  // namespace tq
