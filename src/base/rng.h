// Seeded random numbers that are the same on every machine. Not for secrets.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace tq {

// The n-th value of a counter-based generator (splitmix64: Steele, Lea, Flood 2014).
inline uint64_t splitmix64(uint64_t n) {
  n += 0x9e3779b97f4a7c15ull;
  n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9ull;
  n = (n ^ (n >> 27)) * 0x94d049bb133111ebull;
  return n ^ (n >> 31);
}

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(splitmix64(seed)) {}

  uint64_t bits() { return splitmix64(state_++); }
  // Uniform in [0, 1), 53 bits.
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  // Uniform in [0, n), n > 0. The bias is below n / 2^64.
  uint64_t below(uint64_t n) { return static_cast<uint64_t>((static_cast<Wide>(bits()) * n) >> 64); }
  // Standard normal (Box and Muller 1958); one of the pair is thrown away, so that the state is one counter.
  double gaussian() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

 private:
  __extension__ using Wide = unsigned __int128;
  uint64_t state_;
};

}  // namespace tq
