#include "kernels/split/parts_backend.h"

#include <algorithm>
#include <functional>

namespace tq {
namespace {

constexpr size_t kMostRecorded = 64;  // tokens of a pass: gathers of many are not for recording

constexpr size_t kMostRecordings = 256;

}  // namespace

Result<Memory> PartsBackend::create_region(uint64_t bytes, int64_t kv_heads) {
  if (bytes == 0) return Memory();
  TQ_ASSIGN(const Region* region, regions_.create(bytes, kv_heads));
  return Memory(const_cast<std::byte*>(region->begin()), bytes, [this, region](std::byte*) {
    spreads_.overwrite(region->begin(), region->bytes());
    regions_.remove(*region);
  });
}

void PartsBackend::upload(void* to, const void* host, uint64_t bytes) {
  spreads_.overwrite(to, bytes);
  regions_.each([&](size_t i, Backend& part) { part.upload(regions_.at(i, to), host, bytes); });
}

void PartsBackend::copy(void* to, const void* from, uint64_t bytes) {
  if (bytes == 0) return;
  const Region& region = regions_.of(from);
  TQ_CHECK(regions_.of(to).kv_heads() == region.kv_heads());
  spreads_.complete(from, bytes);
  spreads_.overwrite(to, bytes);
  regions_.each([&](size_t i, Backend& part) {
    part.copy(regions_.at(i, to), regions_.at(i, from), region.share_of(bytes, regions_.own_heads(region.kv_heads(), i)));
  });
}

void PartsBackend::synchronize() {
  regions_.each([](size_t, Backend& part) { part.synchronize(); });
}

uint64_t PartsBackend::bytes_in_use() {
  uint64_t most = 0;
  regions_.each([&](size_t, Backend& part) { most = std::max(most, part.bytes_in_use()); });
  return most;
}

double PartsBackend::read_bytes_per_second() {
  double total = 0;
  regions_.each([&](size_t, Backend& part) { total += part.read_bytes_per_second(); });
  return total;
}

void PartsBackend::score(const ScoreArgs& args) {
  const int64_t count = static_cast<int64_t>(args.next.size()) * args.vocabulary;
  complete(args.logits, count);
  if (args.reference) complete(args.reference, count);
  ScoreArgs own = args;
  own.logits = regions_.at(0, args.logits), own.reference = regions_.at(0, args.reference);
  enter(0).score(own);
}

PassMode PartsBackend::pass_mode(const PassArgs& args) {
  const bool can_record = regions_.peers().can_record() && args.tokens.size() <= kMostRecorded;
  // While it is recorded, only few values can be gathered.
  if (args.recording != 0) spreads_.complete_others(static_cast<int64_t>(args.tokens.size()));
  PassMode mode = can_record ? PassMode::kRepeat : PassMode::kEnqueue;
  regions_.each([&](size_t i, Backend& part) { mode = std::min(mode, part.pass_mode(part_args(args, i))); });
  const auto found = recordings_.find(args.recording);
  const bool is_same = found != recordings_.end() && found->second.before == spreads_.all();
  return is_same ? mode : std::min(mode, PassMode::kRecord);
}

void PartsBackend::begin_pass(const PassArgs& args, PassMode mode) {
  pass_ = args, mode_ = mode;
  if (mode != PassMode::kRepeat && recordings_.size() >= kMostRecordings) recordings_.clear();
  if (args.recording != 0 && mode != PassMode::kRepeat) recordings_[args.recording].before = spreads_.all();
  regions_.each([&](size_t i, Backend& part) { part.begin_pass(part_args(args, i), mode); });
}

// Where one part has no memory for it, none repeats it; what is shared out is as before.
bool PartsBackend::end_recording() {
  bool is_recorded = true;
  regions_.each([&](size_t, Backend& part) { is_recorded &= part.end_recording(); });
  if (!is_recorded) spreads_.set(recordings_[pass_.recording].before);
  return is_recorded;
}

void PartsBackend::end_pass() {
  regions_.each([](size_t, Backend& part) { part.end_pass(); });
  if (pass_.recording != 0) {
    Recording& recording = recordings_[pass_.recording];
    if (mode_ == PassMode::kRepeat) spreads_.set(recording.after);
    else recording.after = spreads_.all();
  }
  pass_ = {};
}

std::vector<Stretch> PartsBackend::part_stretches(std::span<const Stretch> stretches, size_t i) const {
  std::vector<Stretch> own(stretches.begin(), stretches.end());
  for (Stretch& stretch : own) stretch.pages = regions_.at(i, stretch.pages);
  return own;
}

PassArgs PartsBackend::part_args(const PassArgs& args, size_t i) {
  pass_stretches_[i] = part_stretches(args.stretches, i);
  PassArgs own = args;
  own.stretches = pass_stretches_[i];
  return own;
}

std::span<const Stretch> PartsBackend::stretches_of(std::span<const Stretch> stretches, size_t i) {
  const Stretch* const begin = pass_.stretches.data();
  if (!stretches.empty() && begin && std::greater_equal<>()(stretches.data(), begin) &&
      std::less<>()(stretches.data(), begin + pass_.stretches.size()))
    return std::span<const Stretch>(pass_stretches_[i]).subspan(static_cast<size_t>(stretches.data() - begin), stretches.size());
  if (other_stretches_.size() < regions_.parts()) other_stretches_.resize(regions_.parts());
  other_stretches_[i] = part_stretches(stretches, i);
  return other_stretches_[i];
}

NormArgs PartsBackend::at(size_t i, const NormArgs& args) const {
  NormArgs own = args;
  own.input = regions_.at(i, args.input), own.weight = regions_.at(i, args.weight), own.output = regions_.at(i, args.output);
  return own;
}

RowsArgs PartsBackend::at(size_t i, const RowsArgs& args) const {
  RowsArgs own = args;
  own.input = regions_.at(i, args.input), own.output = regions_.at(i, args.output);
  own.row = regions_.at(i, args.row), own.weight = regions_.at(i, args.weight);
  return own;
}

GatedArgs PartsBackend::at(size_t i, const GatedArgs& args) const {
  GatedArgs own = args;
  own.gate = regions_.at(i, args.gate), own.up = regions_.at(i, args.up), own.output = regions_.at(i, args.output);
  return own;
}

}  // namespace tq
