// What backends of several parts have in common: memory, passes, and what is shared out at present.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kernels/split/spreads.h"

namespace tq {

class PartsBackend : public Backend {
 public:
  PartsBackend(std::string name, std::vector<std::unique_ptr<Backend>> parts, std::unique_ptr<Peers> peers)
      : regions_(std::move(parts), std::move(peers)), spreads_(regions_), name_(std::move(name)), pass_stretches_(regions_.parts()) {}

  std::string name() const override { return name_; }
  bool is_host() const override { return false; }
  Isa isa() const override { return regions_.part(0).isa(); }

  Result<Memory> allocate(uint64_t bytes) override { return create_region(bytes, 0); }
  uint64_t bytes_in_use() override;  // of the part that uses most
  void upload(void* to, const void* host, uint64_t bytes) override;
  void copy(void* to, const void* from, uint64_t bytes) override;
  void synchronize() override;
  double read_bytes_per_second() override;  // of all parts together

  // What is shared out when a pass begins is a part of what was recorded, and what is when it ends its result.
  void score(const ScoreArgs& args) override;
  PassMode pass_mode(const PassArgs& args) override;
  void begin_pass(const PassArgs& args, PassMode mode) override;
  bool end_recording() override;
  void end_pass() override;

 protected:
  // kv_heads: as of Region.
  Result<Memory> create_region(uint64_t bytes, int64_t kv_heads);
  Backend& enter(size_t i) {
    regions_.peers().enter(i);
    return regions_.part(i);
  }
  void complete(const float* values, int64_t count) { spreads_.complete(values, static_cast<uint64_t>(count) * sizeof(float)); }
  void overwrite(const float* values, int64_t count) { spreads_.overwrite(values, static_cast<uint64_t>(count) * sizeof(float)); }
  // To the end of the region.
  uint64_t bytes_behind(const float* values) const {
    return static_cast<uint64_t>(regions_.of(values).end() - reinterpret_cast<const std::byte*>(values));
  }

  // The same with a part's memory: of whole operations.
  NormArgs at(size_t i, const NormArgs& args) const;
  RowsArgs at(size_t i, const RowsArgs& args) const;
  GatedArgs at(size_t i, const GatedArgs& args) const;
  // The same stretches with a part's pages: those of a pass lie together, others stay until the next call.
  std::span<const Stretch> stretches_of(std::span<const Stretch> stretches, size_t i);

  Regions regions_;
  Spreads spreads_;

 private:
  struct Recording {
    std::vector<Spread> before, after;
  };
  std::vector<Stretch> part_stretches(std::span<const Stretch> stretches, size_t i) const;
  PassArgs part_args(const PassArgs& args, size_t i);

  std::string name_;
  PassArgs pass_;
  PassMode mode_ = PassMode::kEnqueue;
  std::vector<std::vector<Stretch>> pass_stretches_, other_stretches_;  // of each part
  std::map<uint64_t, Recording> recordings_;
};

}  // namespace tq
