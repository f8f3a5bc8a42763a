// Transport between the cards of one machine.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "kernels/split/peers.h"

namespace tq::cuda {

struct PeerCard {
  int device = 0;
  cudaStream_t stream = nullptr;  // everything is enqueued there
};

// Whether all of them can write each other's memory; it is switched on then.
bool open_links(const std::vector<PeerCard>& cards);

// has_links: open_links'. Without, everything goes through copies, and passes cannot be recorded.
Result<std::unique_ptr<Peers>> make_peers(std::vector<PeerCard> cards, bool has_links);

}  // namespace tq::cuda
