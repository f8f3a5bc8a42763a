// Transport between parts whose memory is the host's.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/split/peers.h"

namespace tq {

class HostPeers final : public Peers {
 public:
  void gather(const Shares& shares, std::span<const float* const> own, std::span<float* const> whole) override {
    for (size_t i = 0; i < own.size(); ++i) {
      for (int64_t t = 0; t < shares.tokens; ++t) {
        const float* from = own[i] + t * shares.count(i);
        for (float* const to : whole) {
          float* const row = to + t * shares.width + shares.bounds[i];
          if (row != from) std::copy_n(from, shares.count(i), row);
        }
      }
    }
  }
  void take(const Shares& shares, std::span<const float* const> whole, std::span<float* const> own) override {
    for (size_t i = 0; i < own.size(); ++i)
      for (int64_t t = 0; t < shares.tokens && own[i] != whole[i]; ++t)
        std::copy_n(whole[i] + t * shares.width + shares.bounds[i], shares.count(i), own[i] + t * shares.count(i));
  }
};

inline std::unique_ptr<Peers> make_host_peers() { return std::make_unique<HostPeers>(); }

// The same, noting what is gathered.
class NotingPeers final : public Peers {
 public:
  explicit NotingPeers(std::vector<Shares>& gathered) : gathered_(gathered) {}
  void gather(const Shares& shares, std::span<const float* const> own, std::span<float* const> whole) override {
    gathered_.push_back(shares);
    inner_.gather(shares, own, whole);
  }
  void take(const Shares& shares, std::span<const float* const> whole, std::span<float* const> own) override {
    inner_.take(shares, whole, own);
  }

 private:
  std::vector<Shares>& gathered_;
  HostPeers inner_;
};

}  // namespace tq
