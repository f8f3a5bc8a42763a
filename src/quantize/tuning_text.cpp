#include "quantize/tuning_text.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "base/rng.h"

namespace tq {
namespace {

// The bodies of calibration sequences, without their bos.
class Bodies {
 public:
  Bodies(std::span<const std::vector<TokenId>> sequences, size_t prefix) {
    for (const auto& sequence : sequences) bodies_.emplace(sequence.begin() + static_cast<std::ptrdiff_t>(prefix), sequence.end());
    length_ = sequences.empty() ? 0 : static_cast<int64_t>(sequences[0].size() - prefix);
  }

  // Which tokens of a text lie in one of them; they begin at multiples of their length (calibration_sequences).
  std::vector<bool> cover(const std::vector<TokenId>& ids) const {
    std::vector<bool> covered(ids.size(), false);
    for (int64_t begin = 0; length_ > 0 && begin + length_ <= static_cast<int64_t>(ids.size()); begin += length_)
      if (bodies_.contains({ids.begin() + begin, ids.begin() + begin + length_})) std::fill_n(covered.begin() + begin, length_, true);
    return covered;
  }

 private:
  std::set<std::vector<TokenId>> bodies_;
  int64_t length_ = 0;
};

// `count` of `from`, spread evenly; they are taken out of it.
std::vector<int64_t> take_spread(std::vector<int64_t>& from, int64_t count) {
  std::vector<int64_t> taken, left;
  const auto size = static_cast<int64_t>(from.size());
  count = std::min(count, size);
  for (int64_t i = 0, next = 0; i < size; ++i) {
    const bool is_next = next < count && i == (2 * next + 1) * size / (2 * count);
    (is_next ? taken : left).push_back(from[static_cast<size_t>(i)]);
    next += is_next;
  }
  from = std::move(left);
  return taken;
}

// One text, cut into blocks of `body` tokens.
struct Blocks {
  std::vector<TokenId> ids;
  std::vector<int64_t> learned, held_out;  // numbers of blocks
};

Blocks cut(std::vector<TokenId> ids, const Bodies& bodies, int64_t body, int64_t wanted) {
  Blocks out{std::move(ids), {}, {}};
  const std::vector<bool> covered = bodies.cover(out.ids);
  const auto count = static_cast<int64_t>(out.ids.size()) / body;
  std::vector<int64_t> fresh;
  for (int64_t i = 0; i < count; ++i) {
    const auto begin = covered.begin() + i * body;
    (std::any_of(begin, begin + body, [](bool x) { return x; }) ? out.learned : fresh).push_back(i);
  }
  const int64_t number = std::min(wanted, count < 4 ? count / 2 : count / 4);
  out.held_out = take_spread(fresh, number);
  for (const int64_t block : take_spread(out.learned, number - static_cast<int64_t>(out.held_out.size()))) out.held_out.push_back(block);
  std::sort(out.held_out.begin(), out.held_out.end());
  out.learned.insert(out.learned.end(), fresh.begin(), fresh.end());
  std::sort(out.learned.begin(), out.learned.end());
  return out;
}

}  // namespace

TuningText tuning_text(const Tokenizer& tokenizer, const TuningTextRequest& request) {
  const std::vector<TokenId> front = tokenizer.encode("", false, true);  // a bos token, if texts begin with one
  const auto body = request.length - static_cast<int64_t>(front.size());
  TQ_CHECK(body > 0);
  const Bodies bodies(request.calibration, front.size());
  std::vector<Blocks> all;
  for (const CalibrationText& text : request.texts)
    all.push_back(cut(tokenizer.encode(text.text, false, false), bodies, body, request.held_out));
  const auto sequence = [&](const Blocks& blocks, int64_t number) {
    std::vector<TokenId> out = front;
    out.insert(out.end(), blocks.ids.begin() + number * body, blocks.ids.begin() + (number + 1) * body);
    return out;
  };
  std::vector<int64_t> available;
  for (const Blocks& blocks : all) available.push_back(static_cast<int64_t>(blocks.learned.size()));
  const std::vector<int64_t> share = share_out(request.texts, available, request.count);
  TuningText out;
  for (size_t i = 0; i < all.size(); ++i) {
    if (!all[i].held_out.empty()) out.domains.push_back(request.texts[i].name);
    for (const int64_t number : all[i].held_out) {
      out.held_out.push_back(sequence(all[i], number));
      out.domain.push_back(out.domains.size() - 1);
    }
    for (const int64_t number : take_spread(all[i].learned, share[i])) out.sequences.push_back(sequence(all[i], number));
  }
  return out;
}

std::vector<size_t> drawn_sequences(size_t count, int64_t first, int64_t last, uint64_t seed) {
  std::vector<size_t> out, order(count);
  int64_t epoch = -1;
  for (int64_t i = first; i < last; ++i) {
    if (i / static_cast<int64_t>(count) != epoch) {
      epoch = i / static_cast<int64_t>(count);
      Rng rng(splitmix64(seed ^ splitmix64(static_cast<uint64_t>(epoch))));
      std::iota(order.begin(), order.end(), size_t{0});
      for (size_t k = count; k > 1; --k) std::swap(order[k - 1], order[rng.bits() % k]);
    }
    out.push_back(order[static_cast<size_t>(i % static_cast<int64_t>(count))]);
  }
  return out;
}

}  // namespace tq
