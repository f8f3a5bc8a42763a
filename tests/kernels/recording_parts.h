// Parts of a split backend whose passes are recorded, as a card's are, and that may lack the memory for it.
#pragma once

#include <set>

#include "kernels/host_peers.h"

namespace tq {

// What parts and peers of a recording share: while it lasts, nothing is computed.
struct Recorder {
  bool is_on = false;  // whether passes are recorded at all, from the second of each kind on
  bool is_running = false;
  int recorded = 0;
};

// A part that has the memory for recordings, or has not. Those that it has are dropped when a pass is begun again.
class RecordingBackend final : public Backend {
 public:
  RecordingBackend(std::unique_ptr<Backend> inner, Recorder& recorder, bool has_memory)
      : inner_(std::move(inner)), recorder_(recorder), has_memory_(has_memory) {}

  std::string name() const override { return inner_->name(); }
  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override { return inner_->prepare(tensor, expert); }
  Result<Memory> allocate(uint64_t bytes) override { return inner_->allocate(bytes); }
  void embed(const EmbedArgs& args) override {
    run([&] { inner_->embed(args); });
  }
  void linear(const LinearArgs& args) override {
    run([&] { inner_->linear(args); });
  }
  void norm(const NormArgs& args) override {
    run([&] { inner_->norm(args); });
  }
  void rotary(const RotaryArgs& args) override {
    run([&] { inner_->rotary(args); });
  }
  void kv_store(const KvStoreArgs& args) override {
    run([&] { inner_->kv_store(args); });
  }
  void attend(const AttendArgs& args) override {
    run([&] { inner_->attend(args); });
  }
  void gated(const GatedArgs& args) override {
    run([&] { inner_->gated(args); });
  }
  void add(float* sum, const float* addend, int64_t count) override {
    run([&] { inner_->add(sum, addend, count); });
  }
  void score(const ScoreArgs& args) override { inner_->score(args); }

  PassMode pass_mode(const PassArgs& args) override {
    if (!recorder_.is_on || args.recording == 0 || !known_.contains(args.recording)) return PassMode::kEnqueue;
    return recordings_.contains(args.recording) ? PassMode::kRepeat : PassMode::kRecord;
  }
  void begin_pass(const PassArgs& args, PassMode mode) override {
    known_.insert(args.recording), pass_ = args.recording;
    if (mode != PassMode::kRepeat) recordings_.erase(args.recording);
    recorder_.is_running = mode == PassMode::kRecord;
  }
  bool end_recording() override {
    recorder_.is_running = false, ++recorder_.recorded;
    if (has_memory_) recordings_.insert(pass_);
    return has_memory_;
  }

 private:
  template <typename Operation>
  void run(const Operation& operation) const {
    if (!recorder_.is_running) operation();
  }
  std::unique_ptr<Backend> inner_;
  Recorder& recorder_;
  bool has_memory_;
  std::set<uint64_t> known_, recordings_;
  uint64_t pass_ = 0;
};

class RecordingPeers final : public Peers {
 public:
  explicit RecordingPeers(const Recorder& recorder) : recorder_(recorder) {}
  void gather(const Shares& shares, std::span<const float* const> own, std::span<float* const> whole) override {
    if (!recorder_.is_running) inner_->gather(shares, own, whole);
  }
  void take(const Shares& shares, std::span<const float* const> whole, std::span<float* const> own) override {
    if (!recorder_.is_running) inner_->take(shares, whole, own);
  }

 private:
  const Recorder& recorder_;
  std::unique_ptr<Peers> inner_ = make_host_peers();
};

}  // namespace tq
