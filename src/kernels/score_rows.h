// score() of a backend whose memory is the host's.
#pragma once

#include "kernels/backend.h"

namespace tq {

// Exponentials in float, sums over them in double.
void score_rows(const ScoreArgs& args, ThreadPool& threads);

}  // namespace tq
