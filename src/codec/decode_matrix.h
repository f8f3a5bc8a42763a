// A whole matrix decoded at once, on the threads.
#pragma once

#include "base/thread_pool.h"
#include "codec/codec.h"

namespace tq {

// Matrix `expert` of a stack (0 otherwise), [R, C], its rows on the threads if the codec can decode them alone.
void decode_matrix(const PackedTensor& tensor, int64_t expert, float* out, ThreadPool& threads);

}  // namespace tq
