// How a gather is cut into what is sent at once; needs no card.
#include "kernels/split/pieces.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "kernels/host_peers.h"

namespace tq {
namespace {

// Values of every part, and what a gather makes of them.
struct Gather {
  Shares shares;
  std::vector<std::vector<float>> own, whole;

  explicit Gather(Rng& rng) : shares{1 + static_cast<int64_t>(rng.below(9)), 0, {0}} {
    const uint64_t parts = 1 + rng.below(4);
    for (uint64_t i = 0; i < parts; ++i) {
      const int64_t count = rng.below(3) == 0 ? 0 : static_cast<int64_t>(rng.below(30));
      shares.bounds.push_back(shares.bounds.back() + count);
      for (float& value : own.emplace_back(static_cast<size_t>(shares.tokens * count))) value = static_cast<float>(rng.uniform());
    }
    shares.width = shares.bounds.back();
    whole.assign(own.size(), std::vector<float>(static_cast<size_t>(shares.tokens * shares.width), NAN));
  }
  // piece: of all of it.
  void run(const Piece& piece, std::vector<std::vector<float>>& out) const {
    std::vector<const float*> from;
    std::vector<float*> to;
    for (size_t i = 0; i < own.size(); ++i) {
      const bool has_any = piece.shares.count(i) > 0;
      from.push_back(own[i].data() + (has_any ? piece.token * shares.count(i) + piece.own_column : 0));
      to.push_back(out[i].data() + piece.token * shares.width + piece.column);
    }
    HostPeers().gather(piece.shares, from, to);
  }
};

TEST(Pieces, AllValuesAreInOneOfThemAndNoPartHasMoreThanFit) {
  Rng rng(1);
  int cut_rows = 0;
  for (int turn = 0; turn < 400; ++turn) {
    Gather gather(rng);
    const Shares& shares = gather.shares;
    const auto most = 1 + static_cast<int64_t>(rng.below(60));
    auto expected = gather.whole;
    gather.run({.shares = shares}, expected);
    int64_t count = 0, sent = 0;
    in_pieces(shares, most, [&](const Piece& piece) {
      ++count, sent += piece.shares.tokens * (piece.shares.bounds.back() - piece.shares.bounds.front());
      cut_rows += piece.own_column > 0;
      for (size_t i = 0; i < gather.own.size(); ++i) EXPECT_LE(piece.shares.tokens * piece.shares.count(i), most);
      gather.run(piece, gather.whole);
    });
    EXPECT_EQ(gather.whole, expected) << turn;
    EXPECT_EQ(sent, shares.tokens * shares.width) << turn;
    EXPECT_EQ(count, count_pieces(shares, most)) << turn;
  }
  EXPECT_GT(cut_rows, 0);
}

TEST(Pieces, RowsGoTogetherAsFarAsTheyFitAndOneThatDoesNotIsCut) {
  constexpr int64_t kMost = int64_t{1} << 18;
  EXPECT_EQ(count_pieces({64, 8192, {0, 8192, 8192}}, kMost), 2);
  EXPECT_EQ(count_pieces({64, 8192, {0, 4096, 8192}}, kMost), 1);
  EXPECT_EQ(count_pieces({1, 64 * 8192, {0, 64 * 8192, 64 * 8192}}, kMost), 2);
  EXPECT_EQ(count_pieces({3, kMost + 1, {0, 0, kMost + 1}}, kMost), 6);
}

}  // namespace
}  // namespace tq
