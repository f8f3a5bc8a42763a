// The kernel's loops over a vector type V; included by one file per instruction set (see encoder_kernel.h for the mathematics).
// V: kLaneBits, Reg, load, store, set1, add, sub, mul, mul_sub(a, b, c) = a * b - c and square_add(e, m) = e * e + m fused,
//    min and reduce_min of values that are not negative, store_folded<S>(p, x) = to p[i] the least of the lanes that are i modulo 2^S,
//    repeat<K>(p) = 2^(lane_bits - K) floats at p, repeated; natural<K>(x) = lanes from lane_order back to ascending states;
//    pick(p, shift, u) = p[(u + lane) >> shift] for u a multiple of the lanes (may read 15 floats further); equal_mask(a, b): bit = lane.
// V may be the scalar: lane_bits = 0.
#include "codec/grid/encoder_kernel.h"

namespace tq::grid {
namespace {

template <int K>
struct Scaled {
  alignas(64) float older[1 << K < 16 ? 16 : 1 << K];
};

template <int K>
void scale_older(const Trellis& trellis, float root_weight, Scaled<K>& scaled) {
  for (int u = 0; u < 1 << K; ++u) scaled.older[u] = root_weight * trellis.older[u];
}

// Vectors wider than the 2^K states that share a predecessor. S >= lane_bits > K.
template <typename V, int K>
void forward_wide(const Trellis& trellis, float target, float root_weight, const float* before, float* after) {
  Scaled<K> scaled;
  scale_older<K>(trellis, root_weight, scaled);
  typename V::Reg older[1 << K];
  for (int u = 0; u < 1 << K; ++u) older[u] = V::set1(scaled.older[u]);
  const int64_t states = int64_t{1} << trellis.state_bits, stride = states >> K;
  const auto offset = V::set1(root_weight * target), rw = V::set1(root_weight);
  for (int64_t s = 0; s < states; s += V::kLanes) {
    const auto newer = V::mul_sub(rw, V::load(trellis.newer_lanes + s), offset);
    const float* from = before + (s >> K);
    auto best = V::square_add(V::add(older[0], newer), V::template repeat<K>(from));
    auto best1 = V::square_add(V::add(older[1], newer), V::template repeat<K>(from + stride));
    for (int u = 2; u < 1 << K; u += 2) {
      best = V::min(best, V::square_add(V::add(older[u], newer), V::template repeat<K>(from + u * stride)));
      best1 = V::min(best1, V::square_add(V::add(older[u + 1], newer), V::template repeat<K>(from + (u + 1) * stride)));
    }
    V::store(after + s, V::template natural<K>(V::min(best, best1)));
  }
}

// All lanes of a vector share their predecessors: N vectors of one predecessor and G predecessors at once. K >= lane_bits,
// S >= lane_bits; the states are a multiple of G * N vectors, and those a multiple of 2^K if G > 1.
// kMany: S >= K; otherwise u and u + 1 for even u have the same predecessor.
template <typename V, int K, int N, int G, bool kMany>
void forward_narrow(const Trellis& trellis, float target, float root_weight, const float* before, float* after) {
  Scaled<K> scaled;
  scale_older<K>(trellis, root_weight, scaled);
  const int S = trellis.state_bits;
  const int64_t states = int64_t{1} << S;
  const int64_t stride = states >> K;
  const auto offset = V::set1(root_weight * target), rw = V::set1(root_weight);
  for (int64_t s = 0; s < states; s += G * N * V::kLanes) {
    const float* from = before + (s >> K);
    typename V::Reg newer[G * N], best[G * N], best1[G * N];
    for (int n = 0; n < G * N; ++n) {
      newer[n] = V::mul_sub(rw, V::load(trellis.newer + s + n * V::kLanes), offset);
      best[n] = best1[n] = V::set1(3e38f);
    }
    for (int64_t u = 0; u < 1 << K; u += 2) {
      const auto older = V::set1(scaled.older[u]), older1 = V::set1(scaled.older[u + 1]);
      for (int g = 0; g < G; ++g) {
        const auto m = V::set1(from[(kMany ? u * stride : u >> (K - S)) + g]);
        const auto m1 = kMany ? V::set1(from[(u + 1) * stride + g]) : m;
        for (int n = g * N; n < (g + 1) * N; ++n) {
          best[n] = V::min(best[n], V::square_add(V::add(older, newer[n]), m));
          best1[n] = V::min(best1[n], V::square_add(V::add(older1, newer[n]), m1));
        }
      }
    }
    for (int n = 0; n < G * N; ++n) V::store(after + s + n * V::kLanes, V::min(best[n], best1[n]));
  }
}

// Few states: the vectors run over all windows in order. A vector of windows has one predecessor, since K >= lane_bits.
template <typename V, int S, int kMostChains>
void forward_whole(const Trellis& trellis, float target, float root_weight, const float* before, float* after) {
  constexpr int kStates = 1 << S, kVectors = kStates > V::kLanes ? kStates / V::kLanes : 1;  // of one u
  constexpr int kChains = kVectors >= kMostChains ? 1 : kMostChains / kVectors;
  const int K = trellis.rate;
  const auto rw = V::set1(root_weight), offset = V::set1(root_weight * target);
  typename V::Reg best[kChains * kVectors];
  for (auto& b : best) b = V::set1(3e38f);
  for (int64_t w = 0; w < int64_t{1} << (K + S); w += kChains * kVectors * V::kLanes)
    for (int n = 0; n < kChains * kVectors; ++n) {
      const int64_t window = w + n * V::kLanes;
      const auto e = V::mul_sub(rw, V::load(trellis.value + window), offset);
      best[n] = V::min(best[n], V::square_add(e, V::set1(before[window >> K])));
    }
  for (int chains = kChains / 2; chains > 0; chains /= 2)
    for (int n = 0; n < chains * kVectors; ++n) best[n] = V::min(best[n], best[n + chains * kVectors]);
  for (int n = 0; n < kVectors; ++n) V::template store_folded<S>(after + n * V::kLanes, best[n]);
}

template <typename V, int kMostChains>
void forward_whole_of(const Trellis& trellis, float target, float root_weight, const float* before, float* after) {
  switch (trellis.state_bits) {
    case 0: return forward_whole<V, 0, kMostChains>(trellis, target, root_weight, before, after);
    case 1: return forward_whole<V, 1, kMostChains>(trellis, target, root_weight, before, after);
    case 2: return forward_whole<V, 2, kMostChains>(trellis, target, root_weight, before, after);
    default: return forward_whole<V, 3, kMostChains>(trellis, target, root_weight, before, after);
  }
}

template <typename V, typename Scalar, int K>
void forward_rate(const Trellis& trellis, float target, float root_weight, const float* before, float* after) {
  const int S = trellis.state_bits;
  if constexpr (K >= kSplitBits) {
    if (S < kSplitBits && K + S < 6) return forward_whole_of<V, 1>(trellis, target, root_weight, before, after);  // fewer than 4 vectors
    if (S < kSplitBits) return forward_whole_of<V, 4>(trellis, target, root_weight, before, after);
  }
  if (S < V::kLaneBits && S < K) return forward_narrow<Scalar, K, 1, 1, false>(trellis, target, root_weight, before, after);
  if (S < V::kLaneBits) return forward_narrow<Scalar, K, 1, 1, true>(trellis, target, root_weight, before, after);
  if constexpr (K < V::kLaneBits) {
    forward_wide<V, K>(trellis, target, root_weight, before, after);
  } else {
    constexpr int kShared = K - V::kLaneBits >= 2 ? 4 : K - V::kLaneBits == 1 ? 2 : 1;  // vectors of one predecessor, 4 at most
    if (S >= K + 2) return forward_narrow<V, K, kShared, 4 / kShared, true>(trellis, target, root_weight, before, after);
    if (S >= K) return forward_narrow<V, K, kShared, 1, true>(trellis, target, root_weight, before, after);
    if (S >= V::kLaneBits + 2) return forward_narrow<V, K, 4, 1, false>(trellis, target, root_weight, before, after);
    if (S == V::kLaneBits + 1) return forward_narrow<V, K, 2, 1, false>(trellis, target, root_weight, before, after);
    forward_narrow<V, K, 1, 1, false>(trellis, target, root_weight, before, after);
  }
}

template <typename V, typename Scalar>
void forward(const Trellis& trellis, float target, float root_weight, const float* before, float* after) {
  switch (trellis.rate) {
    case 1: return forward_rate<V, Scalar, 1>(trellis, target, root_weight, before, after);
    case 2: return forward_rate<V, Scalar, 2>(trellis, target, root_weight, before, after);
    case 3: return forward_rate<V, Scalar, 3>(trellis, target, root_weight, before, after);
    case 4: return forward_rate<V, Scalar, 4>(trellis, target, root_weight, before, after);
    case 5: return forward_rate<V, Scalar, 5>(trellis, target, root_weight, before, after);
    case 6: return forward_rate<V, Scalar, 6>(trellis, target, root_weight, before, after);
    case 7: return forward_rate<V, Scalar, 7>(trellis, target, root_weight, before, after);
    default: return forward_rate<V, Scalar, 8>(trellis, target, root_weight, before, after);
  }
}

template <typename Scalar>
uint32_t trace_scalar(const Trellis& trellis, float target, float root_weight, const float* before, uint32_t state) {
  const int S = trellis.state_bits, K = trellis.rate;
  const bool whole = trellis.whole();
  const float offset = root_weight * target, newer = Scalar::mul_sub(root_weight, trellis.newer[state], offset);
  float best = 3e38f;
  uint32_t best_window = state;
  for (uint32_t u = 0; u < 1u << K; ++u) {
    const uint32_t window = u << S | state;
    const float e = whole ? Scalar::mul_sub(root_weight, trellis.value[window], offset) : root_weight * trellis.older[u] + newer;
    const float cost = Scalar::square_add(e, before[window >> K]);
    if (cost < best) best = cost, best_window = window;
  }
  return best_window;
}

// Predecessors are in order when S <= K: whole vectors of branches at once.
template <typename V, typename Scalar>
uint32_t trace(const Trellis& trellis, float target, float root_weight, const float* before, uint32_t state) {
  const int S = trellis.state_bits, K = trellis.rate;
  if (V::kLaneBits == 0 || K < V::kLaneBits || S > K) return trace_scalar<Scalar>(trellis, target, root_weight, before, state);
  if constexpr (V::kLaneBits > 0) {
    const bool whole = trellis.whole();
    const float* value = whole ? trellis.by_state + (int64_t{state} << K) : trellis.older;
    const auto offset = V::set1(root_weight * target), rw = V::set1(root_weight);
    const auto newer = V::mul_sub(rw, V::set1(trellis.newer[state]), offset);
    alignas(64) float costs[256];
    auto best = V::set1(3e38f);
    for (int u = 0; u < 1 << K; u += V::kLanes) {
      const auto e = whole ? V::mul_sub(rw, V::load(value + u), offset) : V::add(V::mul(rw, V::load(value + u)), newer);
      const auto cost = V::square_add(e, V::pick(before, K - S, u));
      V::store(costs + u, cost);
      best = V::min(best, cost);
    }
    const auto least = V::set1(V::reduce_min(best));
    uint32_t first = 0;  // from the last to the first without a branch: which vector holds it cannot be predicted
    for (int u = (1 << K) - V::kLanes; u >= 0; u -= V::kLanes) {
      const uint32_t equal = V::equal_mask(V::load(costs + u), least);
      const uint32_t here = static_cast<uint32_t>(u) + static_cast<uint32_t>(__builtin_ctz(equal | 1u << (V::kLanes - 1)));
      first = equal ? here : first;
    }
    return first << S | state;
  }
  return state;  // not reached
}

template <typename V, typename Scalar>
void normalise(float* metrics, int64_t count) {
  if (count < V::kLanes) {
    float least = metrics[0];
    for (int64_t i = 1; i < count; ++i) least = metrics[i] < least ? metrics[i] : least;
    for (int64_t i = 0; i < count; ++i) metrics[i] -= least;
    return;
  }
  auto best = V::load(metrics);
  for (int64_t i = V::kLanes; i < count; i += V::kLanes) best = V::min(best, V::load(metrics + i));
  const auto least = V::set1(V::reduce_min(best));
  for (int64_t i = 0; i < count; i += V::kLanes) V::store(metrics + i, V::sub(V::load(metrics + i), least));
}

struct ScalarVector {
  static constexpr int kLaneBits = 0, kLanes = 1;
  using Reg = float;
  static Reg load(const float* p) { return *p; }
  static void store(float* p, Reg x) { *p = x; }
  static Reg set1(float x) { return x; }
  static Reg add(Reg a, Reg b) { return a + b; }
  static Reg sub(Reg a, Reg b) { return a - b; }
  static Reg mul(Reg a, Reg b) { return a * b; }
  static Reg min(Reg a, Reg b) { return b < a ? b : a; }
  static float reduce_min(Reg x) { return x; }
  static Reg pick(const float* p, int shift, int u) { return p[u >> shift]; }
  template <int S>
  static void store_folded(float* p, Reg x) {
    *p = x;
  }
  static Reg mul_sub(Reg a, Reg b, Reg c) { return fused(a, b, -c); }
  static Reg square_add(Reg e, Reg m) { return fused(e, e, m); }
  static Reg fused(Reg a, Reg b, Reg c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c));
#endif
  }
};

}  // namespace
}  // namespace tq::grid
