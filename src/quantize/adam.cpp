#include "quantize/adam.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tq {

void Adam::step(std::span<const float> gradient, std::span<const float> rate, std::span<float> theta, const AdamSettings& settings) {
  ++steps;
  const double correct1 = 1.0 - std::pow(settings.beta1, static_cast<double>(steps));
  const double correct2 = 1.0 - std::pow(settings.beta2, static_cast<double>(steps));
  for (size_t i = 0; i < theta.size(); ++i) {
    const double g = gradient[i];
    const double mean = settings.beta1 * first[i] + (1.0 - settings.beta1) * g;
    const double square = settings.beta2 * second[i] + (1.0 - settings.beta2) * g * g;
    first[i] = static_cast<float>(mean), second[i] = static_cast<float>(square);
    theta[i] -= static_cast<float>(rate[i] * (mean / correct1) / (std::sqrt(square / correct2) + settings.epsilon));
  }
}

double half_cosine(double done, double last) { return last + (1 - last) * 0.5 * (1 + std::cos(std::numbers::pi * done)); }

double rate_factor(int64_t step, int64_t steps) {
  constexpr double kLast = 0.05;
  const auto rising = std::max<int64_t>(1, steps / 10);
  if (step < rising) return static_cast<double>(step + 1) / static_cast<double>(rising);
  return half_cosine(static_cast<double>(step - rising) / static_cast<double>(std::max<int64_t>(1, steps - rising)), kLast);
}

}  // namespace tq
