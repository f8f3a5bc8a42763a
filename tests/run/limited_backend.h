// Another backend as a device with so much memory and no more.
#pragma once

#include <algorithm>

#include "base/context.h"
#include "kernels/backend.h"

namespace tq {

class LimitedBackend final : public Backend {
 public:
  // is_host: one that counts the host's memory.
  explicit LimitedBackend(std::unique_ptr<Backend> inner, uint64_t limit = UINT64_MAX, bool is_host = false)
      : inner_(std::move(inner)), limit_(limit), is_host_(is_host) {}

  uint64_t used() const { return used_; }
  uint64_t most_used() const { return most_used_; }
  void set_limit(uint64_t limit) { limit_ = limit; }

  bool is_host() const override { return is_host_; }
  std::string name() const override { return "limited " + inner_->name(); }
  Training* training() override { return inner_->training(); }
  Result<Memory> allocate(uint64_t bytes) override {
    if (used_ + bytes > limit_) return fail(ErrorCode::kNoResource, "{} of {} bytes are used, {} more are needed", used_, limit_, bytes);
    TQ_ASSIGN(Memory memory, inner_->allocate(bytes));
    used_ += bytes;
    most_used_ = std::max(most_used_, used_);
    auto owner = std::make_shared<Memory>(std::move(memory));
    return Memory(owner->as<std::byte>(), bytes, [this, owner](std::byte*) mutable {
      used_ -= owner->bytes();
      owner.reset();
    });
  }

  Result<std::unique_ptr<Matrix>> prepare(const PackedTensor& tensor, int64_t expert) override { return inner_->prepare(tensor, expert); }
  void upload(void* to, const void* host, uint64_t bytes) override { inner_->upload(to, host, bytes); }
  void download(void* host, const void* from, uint64_t bytes) override { inner_->download(host, from, bytes); }
  void copy(void* to, const void* from, uint64_t bytes) override { inner_->copy(to, from, bytes); }
  void embed(const EmbedArgs& args) override { inner_->embed(args); }
  void linear(const LinearArgs& args) override { inner_->linear(args); }
  void norm(const NormArgs& args) override { inner_->norm(args); }
  void rotary(const RotaryArgs& args) override { inner_->rotary(args); }
  void kv_store(const KvStoreArgs& args) override { inner_->kv_store(args); }
  void attend(const AttendArgs& args) override { inner_->attend(args); }
  void gated(const GatedArgs& args) override { inner_->gated(args); }
  void add(float* sum, const float* addend, int64_t count) override { inner_->add(sum, addend, count); }
  void score(const ScoreArgs& args) override { inner_->score(args); }

 private:
  std::unique_ptr<Backend> inner_;
  uint64_t limit_, used_ = 0, most_used_ = 0;
  bool is_host_;
};

// What of it was used when progress was last told of.
struct UsedMemory final : Listener {
  explicit UsedMemory(const LimitedBackend& watched) : device(watched) {}
  void progress(std::string_view, int64_t, int64_t) override { used = device.used(); }
  const LimitedBackend& device;
  uint64_t used = 0;
};

}  // namespace tq
