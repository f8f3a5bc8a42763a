// One card, or several as one backend.
#include <algorithm>

#include "kernels/cuda/card.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gather_args.h"
#include "kernels/cuda/peers.h"
#include "kernels/split/split_backend.h"

namespace tq {

using namespace cuda;

Result<std::unique_ptr<Backend>> make_cuda_backend(ThreadPool& threads, const CudaOptions& options) {
  TQ_ASSIGN(std::vector<Card> cards, find_cards());
  const int gpus = options.gpus;
  if (gpus <= 1) {
    TQ_ASSIGN(Part part, open_part(cards[0], 1, threads, options.host_isa));
    return std::move(part.backend);
  }
  if (gpus > kMaxParts) return bad_usage("--gpus {}: {} cards can work together at most", gpus, kMaxParts);
  const auto count = static_cast<size_t>(gpus);
  if (cards.size() < count)
    return fail(ErrorCode::kNoResource, "--gpus {}: this machine has {} NVIDIA card{}", gpus, cards.size(), cards.size() == 1 ? "" : "s");
  cards.resize(count);
  for (const Card& card : cards)
    if (card.name != cards[0].name || card.multiprocessors != cards[0].multiprocessors)
      return fail(ErrorCode::kNoResource, "--gpus {}: cards that work together have to be alike; card 0 is {}, card {} is {}", gpus,
                  cards[0].name, card.device, card.name);
  const bool by_rows = options.split == SplitBy::kRows;
  std::vector<std::unique_ptr<Backend>> parts;
  std::vector<PeerCard> peer_cards;
  for (const Card& card : cards) {
    TQ_ASSIGN(Part part, open_part(card, by_rows ? gpus : 1, threads, options.host_isa));
    peer_cards.push_back({part.device, part.stream});
    parts.push_back(std::move(part.backend));
  }
  const bool has_links = open_links(peer_cards);
  TQ_ASSIGN(std::unique_ptr<Peers> peers, make_peers(std::move(peer_cards), has_links));
  peers->enter(0);
  const auto make = by_rows ? make_split_backend : make_layer_backend;
  return make(fmt::format("cuda ({} x {}, {}{})", gpus, cards[0].name, by_rows ? "rows shared out" : "layers shared out",
                          has_links ? "" : ", without links"),
              std::move(parts), std::move(peers));
}

}  // namespace tq
