#include "kernels/cuda/ranking.h"

#include <algorithm>
#include <cstddef>

#include "kernels/cuda/expect.h"
#include "kernels/cuda/ops.h"

namespace tq::cuda {

static_assert(sizeof(RankOut) == sizeof(Ranked) && offsetof(RankOut, index) == offsetof(Ranked, index));
static_assert(kMostRanked <= kMostRankCount && static_cast<int>(RankState::kRanked) == kRankDone &&
              static_cast<int>(RankState::kUnknown) == kRankUnknown && static_cast<int>(RankState::kNotFinite) == kRankNotFinite);

Status Ranking::reserve(int64_t rows, int64_t count, uint64_t& generation) {
  TQ_TRY(ranked_.reserve(rows * count * static_cast<int64_t>(sizeof(RankOut)), generation));
  return states_.reserve(rows * static_cast<int64_t>(sizeof(int32_t)), generation);
}

void Ranking::run(const RankArgs& args, uint64_t& generation, cudaStream_t stream) {
  const auto rows = static_cast<int64_t>(args.states.size());
  TQ_CHECK(args.count > 0 && args.count <= std::min(kMostRanked, args.width) && reserve(rows, args.count, generation));
  if (rows == 0) return;
  rank({.values = args.values,
        .width = static_cast<int>(args.width),
        .count = static_cast<int>(args.count),
        .ranked = ranked_.as<RankOut>(),
        .state = states_.as<int32_t>()},
       static_cast<int>(rows), stream);
  const auto bytes = static_cast<uint64_t>(rows * args.count) * sizeof(RankOut);
  expect(cudaMemcpyAsync(args.ranked, ranked_.as<void>(), bytes, cudaMemcpyDeviceToHost, stream), "download");
  expect(cudaMemcpyAsync(args.states.data(), states_.as<void>(), args.states.size_bytes(), cudaMemcpyDeviceToHost, stream), "download");
  expect(cudaStreamSynchronize(stream), "waiting for the card");
}

}  // namespace tq::cuda
