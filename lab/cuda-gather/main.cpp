// Microseconds of a gather between cards, recorded and repeated as a pass has it: cuda_gather [cards, default 2].
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>

#include "kernels/cuda/card.h"
#include "kernels/cuda/expect.h"
#include "kernels/cuda/peers.h"

using namespace tq;
using namespace tq::cuda;

namespace {

constexpr int kGathers = 400, kRepetitions = 20;

struct Cards {
  std::vector<Part> parts;
  std::unique_ptr<Peers> peers;
};

Result<Cards> open(size_t count, ThreadPool& threads) {
  TQ_ASSIGN(const std::vector<Card> cards, find_cards());
  if (cards.size() < count) return bad_usage("{} cards, {} are here", count, cards.size());
  Cards out;
  std::vector<PeerCard> peer_cards;
  for (size_t i = 0; i < count; ++i) {
    TQ_ASSIGN(Part part, open_part(cards[i], static_cast<int>(count), threads));
    peer_cards.push_back({part.device, part.stream});
    out.parts.push_back(std::move(part));
  }
  const bool has_links = open_links(peer_cards);
  fmt::print("{} x {}, {}\n", count, cards[0].name, has_links ? "linked" : "not linked");
  TQ_ASSIGN(out.peers, make_peers(peer_cards, has_links));
  return out;
}

void synchronize(Cards& cards) {
  for (size_t i = 0; i < cards.parts.size(); ++i) cards.peers->enter(i), cards.parts[i].backend->synchronize();
}

// Runs enqueue recorded, in microseconds of one of its gathers.
template <typename Enqueue>
double measure(Cards& cards, const Enqueue& enqueue) {
  enqueue();
  synchronize(cards);
  std::vector<cudaGraphExec_t> graphs(cards.parts.size());
  for (size_t i = 0; i < cards.parts.size(); ++i) {
    cards.peers->enter(i);
    expect(cudaStreamBeginCapture(cards.parts[i].stream, cudaStreamCaptureModeRelaxed), "recording");
  }
  for (int i = 0; i < kGathers; ++i) enqueue();
  for (size_t i = 0; i < cards.parts.size(); ++i) {
    cards.peers->enter(i);
    cudaGraph_t graph = nullptr;
    expect(cudaStreamEndCapture(cards.parts[i].stream, &graph), "recording");
    expect(cudaGraphInstantiate(&graphs[i], graph, 0), "recording");
    expect(cudaGraphDestroy(graph), "recording");
  }
  double fastest = 1e9;
  for (int turn = 0; turn < kRepetitions; ++turn) {
    synchronize(cards);
    const auto start = std::chrono::steady_clock::now();
    for (size_t i = 0; i < cards.parts.size(); ++i) {
      cards.peers->enter(i);
      expect(cudaGraphLaunch(graphs[i], cards.parts[i].stream), "repeating");
    }
    synchronize(cards);
    fastest = std::min(fastest, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / kGathers);
  }
  for (cudaGraphExec_t graph : graphs) cudaGraphExecDestroy(graph);
  return fastest;
}

Status run(size_t count) {
  ThreadPool threads(1);
  TQ_ASSIGN(Cards cards, open(count, threads));
  for (const int64_t width : {2048, 4096, 8192, 28672, 65536, 131072}) {
    for (const int64_t tokens : {1, 4}) {
      Shares shares{tokens, width, {}};
      for (size_t i = 0; i <= count; ++i) shares.bounds.push_back(width * static_cast<int64_t>(i) / static_cast<int64_t>(count));
      std::vector<Memory> memory;
      std::vector<const float*> own;
      std::vector<float*> whole;
      std::vector<GatedArgs> gated;
      for (size_t i = 0; i < count; ++i) {
        cards.peers->enter(i);
        for (int k = 0; k < 3; ++k) {
          TQ_ASSIGN(Memory each, cards.parts[i].backend->allocate(static_cast<uint64_t>(tokens * width) * sizeof(float)));
          cards.parts[i].backend->zero(each.as<float>(), tokens * width);
          memory.push_back(std::move(each));
        }
        const Memory* each = &memory[memory.size() - 3];
        whole.push_back(each[0].as<float>());
        own.push_back(tokens == 1 ? each[0].as<float>() + shares.bounds[i] : each[1].as<float>());
        gated.push_back({GateKind::kSilu, each[1].as<float>(), each[2].as<float>(), nullptr, tokens, shares.count(i), shares.count(i)});
      }
      const double plain = measure(cards, [&] { cards.peers->gather(shares, own, whole); });
      const double with_gate = measure(cards, [&] { cards.peers->gather_gated(shares, gated, whole); });
      fmt::print("{} x {:>6} floats: {:6.2f} us, of gated values {:6.2f} us\n", tokens, width, plain, with_gate);
    }
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const Status status = run(argc > 1 ? static_cast<size_t>(std::atoi(argv[1])) : 2);
  if (!status) fmt::print(stderr, "{}\n", status.error().message);
  return status ? 0 : 1;
}
