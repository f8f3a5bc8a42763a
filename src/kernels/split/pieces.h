// How values that are shared out are sent where a part can send only so many at once.
#pragma once

#include <algorithm>

#include "kernels/split/peers.h"

namespace tq {

// What is sent at once: some rows of all parts, or, where a part has too many columns for one, a stretch of them, of that part alone.
struct Piece {
  Shares shares;           // rows are as far apart as those of the whole
  int64_t token = 0;       // the first row
  int64_t own_column = 0;  // of those parts that `shares` has columns of: the first one
  int64_t column = 0;      // where bounds[0] is in the row
};

inline int64_t most_columns(const Shares& shares) {
  int64_t most = 1;
  for (size_t i = 0; i + 1 < shares.bounds.size(); ++i) most = std::max(most, shares.count(i));
  return most;
}

// Calls visit(piece) for pieces in which no part has more than `most` values, in the same order everywhere: all values are in one of them.
template <typename Visit>
void in_pieces(const Shares& shares, int64_t most, const Visit& visit) {
  if (const int64_t step = most / most_columns(shares); step > 0) {
    for (int64_t token = 0; token < shares.tokens; token += step)
      visit(Piece{.shares = {std::min(step, shares.tokens - token), shares.width, shares.bounds}, .token = token});
    return;
  }
  for (int64_t token = 0; token < shares.tokens; ++token)
    for (size_t part = 0; part + 1 < shares.bounds.size(); ++part)
      for (int64_t at = 0; at < shares.count(part); at += most) {
        Piece piece{.shares = {1, shares.width, std::vector<int64_t>(shares.bounds.size(), 0)},
                    .token = token,
                    .own_column = at,
                    .column = shares.bounds[part] + at};
        std::fill(piece.shares.bounds.begin() + static_cast<std::ptrdiff_t>(part) + 1, piece.shares.bounds.end(),
                  std::min(most, shares.count(part) - at));
        visit(piece);
      }
}

// How many these are.
inline int64_t count_pieces(const Shares& shares, int64_t most) {
  const auto pieces = [&](int64_t count, int64_t unit) { return (count + unit - 1) / unit; };
  if (const int64_t step = most / most_columns(shares); step > 0) return pieces(shares.tokens, step);
  int64_t of_row = 0;
  for (size_t i = 0; i + 1 < shares.bounds.size(); ++i) of_row += pieces(shares.count(i), most);
  return shares.tokens * of_row;
}

}  // namespace tq
