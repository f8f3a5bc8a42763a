#include "kernels/cuda/peers.h"

#include <algorithm>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/expect.h"
#include "kernels/cuda/ops.h"
#include "kernels/split/pieces.h"

namespace tq::cuda {
namespace {

constexpr int64_t kMostSends = 16;  // one after another; more is copied

class CudaPeers final : public Peers {
 public:
  CudaPeers(std::vector<PeerCard> cards, bool has_links) : cards_(std::move(cards)), has_links_(has_links) {}
  ~CudaPeers() override {
    for (Meeting& meeting : meetings_) {
      cudaEventDestroy(meeting.ready);
      cudaEventDestroy(meeting.done);
    }
  }

  Status open() {
    for (size_t i = 0; i < cards_.size(); ++i) {
      enter(i);
      Meeting& meeting = meetings_.emplace_back();
      expect(cudaEventCreateWithFlags(&meeting.ready, cudaEventDisableTiming), "events");
      expect(cudaEventCreateWithFlags(&meeting.done, cudaEventDisableTiming), "events");
      if (!has_links_) continue;
      TQ_ASSIGN(DeviceMemory mailbox, DeviceMemory::allocate(cards_.size() * kMailboxes * kSentSlots * sizeof(uint4)));
      TQ_ASSIGN(DeviceMemory state, DeviceMemory::allocate(2 * sizeof(uint32_t)));
      for (const DeviceMemory* memory : {&mailbox, &state}) expect(cudaMemset(memory->as<void>(), 0, memory->bytes()), "zeroing");
      expect(cudaDeviceSynchronize(), "zeroing");
      mailboxes_.push_back(std::move(mailbox)), states_.push_back(std::move(state));
    }
    return {};
  }

  void enter(size_t part) override { expect(cudaSetDevice(cards_[part].device), "choosing a card"); }
  bool can_record() const override { return has_links_; }

  void gather(const Shares& shares, std::span<const float* const> own, std::span<float* const> whole) override {
    if (!is_sent(shares)) return copy_all(shares, own, whole);
    send(shares, whole, [&](size_t i, GatherArgs& args) { args.own = own[i]; });
  }
  bool gather_gated(const Shares& shares, std::span<const GatedArgs> gated, std::span<float* const> whole) override {
    for (size_t i = 0; i < cards_.size(); ++i)
      if (gated[i].stride != shares.count(i)) return false;
    if (!is_sent(shares)) return false;
    send(shares, whole, [&](size_t i, GatherArgs& args) {
      args.own = gated[i].gate, args.up = gated[i].up, args.gate_kind = static_cast<int>(gated[i].kind);
    });
    return true;
  }
  void take(const Shares& shares, std::span<const float* const> whole, std::span<float* const> own) override {
    for (size_t i = cards_.size(); i-- > 0;) {
      enter(i);
      if (shares.count(i) == 0 || own[i] == whole[i]) continue;
      expect(cudaMemcpy2DAsync(own[i], bytes(shares.count(i)), whole[i] + shares.bounds[i], bytes(shares.width), bytes(shares.count(i)),
                               static_cast<size_t>(shares.tokens), cudaMemcpyDeviceToDevice, cards_[i].stream),
             "taking own columns");
    }
  }

 private:
  struct Meeting {
    cudaEvent_t ready = nullptr, done = nullptr;
  };
  static size_t bytes(int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); }

  bool is_sent(const Shares& shares) const { return has_links_ && count_pieces(shares, kMaxSent) <= kMostSends; }
  // prepare(i, args): what part i has of its own.
  template <typename Prepare>
  void send(const Shares& shares, std::span<float* const> whole, const Prepare& prepare) {
    in_pieces(shares, kMaxSent, [&](const Piece& piece) {
      for (size_t i = cards_.size(); i-- > 0;) {
        GatherArgs args = gather_args(piece.shares, i);
        prepare(i, args);
        const int64_t before = piece.token * shares.count(i) + piece.own_column;  // nothing is read of a part without columns
        args.own += before, args.whole = whole[i] + piece.token * shares.width + piece.column;
        if (args.up) args.up += before;
        enter(i);
        gather_parts(args, cards_[i].stream);
      }
    });
  }
  GatherArgs gather_args(const Shares& shares, size_t part) const {
    GatherArgs args;
    args.parts = static_cast<int>(cards_.size()), args.part = static_cast<int>(part);
    args.tokens = static_cast<int>(shares.tokens), args.width = static_cast<int>(shares.width);
    for (size_t i = 0; i < shares.bounds.size(); ++i) args.bounds[i] = static_cast<int>(shares.bounds[i]);
    for (size_t i = 0; i < cards_.size(); ++i) args.mailbox[i] = mailboxes_[i].as<uint4>();
    args.state = states_[part].as<uint32_t>();
    return args;
  }

  // Many values: every card fetches the others' columns when those are ready, and goes on when nobody needs its own any more.
  void copy_all(const Shares& shares, std::span<const float* const> own, std::span<float* const> whole) {
    const size_t count = cards_.size();
    for (size_t i = 0; i < count; ++i) {
      enter(i);
      expect(cudaEventRecord(meetings_[i].ready, cards_[i].stream), "copies between cards");
    }
    for (size_t to = 0; to < count; ++to) {
      enter(to);
      for (size_t from = 0; from < count; ++from) {
        if (from != to) expect(cudaStreamWaitEvent(cards_[to].stream, meetings_[from].ready, 0), "copies between cards");
        copy_columns(shares, from, own[from], to, whole[to]);
      }
      expect(cudaEventRecord(meetings_[to].done, cards_[to].stream), "copies between cards");
    }
    for (size_t i = count; i-- > 0;) {
      enter(i);
      for (size_t other = 0; other < count; ++other)
        if (other != i) expect(cudaStreamWaitEvent(cards_[i].stream, meetings_[other].done, 0), "copies between cards");
    }
  }
  void copy_columns(const Shares& shares, size_t from, const float* own, size_t to, float* whole) {
    const int64_t columns = shares.count(from);
    float* const target = whole + shares.bounds[from];
    if (columns == 0 || own == target) return;
    const cudaStream_t stream = cards_[to].stream;
    if (from == to || has_links_) {
      expect(cudaMemcpy2DAsync(target, bytes(shares.width), own, bytes(columns), bytes(columns), static_cast<size_t>(shares.tokens),
                               cudaMemcpyDefault, stream),
             "copies between cards");
      return;
    }
    cudaMemcpy3DPeerParms copy = {};
    const auto rows = static_cast<size_t>(shares.tokens);
    copy.srcPtr = {.ptr = const_cast<float*>(own), .pitch = bytes(columns), .xsize = bytes(columns), .ysize = rows};
    copy.dstPtr = {.ptr = target, .pitch = bytes(shares.width), .xsize = bytes(columns), .ysize = rows};
    copy.srcDevice = cards_[from].device, copy.dstDevice = cards_[to].device;
    copy.extent = {.width = bytes(columns), .height = rows, .depth = 1};
    expect(cudaMemcpy3DPeerAsync(&copy, stream), "copies between cards");
  }

  std::vector<PeerCard> cards_;
  bool has_links_;
  std::vector<Meeting> meetings_;
  std::vector<DeviceMemory> mailboxes_, states_;
};

}  // namespace

bool open_links(const std::vector<PeerCard>& cards) {
  for (const PeerCard& from : cards) {
    for (const PeerCard& to : cards) {
      int can = 1;
      if (from.device != to.device && (cudaDeviceCanAccessPeer(&can, from.device, to.device) != cudaSuccess || !can)) return false;
    }
  }
  for (const PeerCard& from : cards) {
    expect(cudaSetDevice(from.device), "choosing a card");
    for (const PeerCard& to : cards) {
      if (from.device == to.device) continue;
      const cudaError_t status = cudaDeviceEnablePeerAccess(to.device, 0);
      (void)cudaGetLastError();  // the next call must not report it again
      if (status != cudaSuccess && status != cudaErrorPeerAccessAlreadyEnabled) return false;
    }
  }
  return true;
}

Result<std::unique_ptr<Peers>> make_peers(std::vector<PeerCard> cards, bool has_links) {
  auto peers = std::make_unique<CudaPeers>(std::move(cards), has_links);
  TQ_TRY(peers->open());
  return peers;
}

}  // namespace tq::cuda
