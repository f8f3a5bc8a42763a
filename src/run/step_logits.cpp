#include "run/step_logits.h"

#include <algorithm>

namespace tq {

int64_t StepLogits::wanted(const Sequence& sequence) const {
  const int64_t wanted = std::min(sequence.wanted_ranks(), vocabulary());
  return wanted <= kMostRanked ? wanted : 0;
}

void StepLogits::compute(const float* states, std::vector<Sequence*> sequences, Precision precision) {
  sequences_ = std::move(sequences);
  const size_t rows = sequences_.size();
  if (rows == 0) return;
  Backend& backend = network_->backend();
  if (backend.is_host()) {
    whole_.resize(rows * static_cast<size_t>(vocabulary()));
    network_->head(states, static_cast<int64_t>(rows), whole_.data(), precision);
    return;
  }
  on_device_ = network_->logits(states, static_cast<int64_t>(rows), precision);
  count_ = 0;
  for (const Sequence* sequence : sequences_) count_ = std::max(count_, wanted(*sequence));
  if (count_ == 0) return;
  states_.resize(rows);
  ranked_.resize(rows * static_cast<size_t>(count_));
  backend.rank({.values = on_device_, .width = vocabulary(), .count = count_, .states = states_, .ranked = ranked_.data()});
}

Event StepLogits::next(size_t row, int64_t context, RequestStats& stats) {
  Sequence& sequence = *sequences_[row];
  const auto width = static_cast<size_t>(vocabulary());
  if (network_->backend().is_host()) return sequence.next(std::span(whole_).subspan(row * width, width), context, stats);
  if (const auto wanted = static_cast<size_t>(this->wanted(sequence)); wanted > 0) {
    if (states_[row] == RankState::kNotFinite) return sequence.finish(Finish::kNotFinite);
    const auto largest = std::span<const Ranked>(ranked_).subspan(row * static_cast<size_t>(count_), wanted);
    if (states_[row] == RankState::kRanked)
      if (auto event = sequence.next(largest, vocabulary(), context, stats)) return std::move(*event);
  }
  whole_.resize(width);
  network_->backend().download(whole_.data(), on_device_ + row * width, width * sizeof(float));
  return sequence.next(whole_, context, stats);
}

}  // namespace tq
