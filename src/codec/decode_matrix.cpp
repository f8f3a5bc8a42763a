#include "codec/decode_matrix.h"

namespace tq {

void decode_matrix(const PackedTensor& tensor, int64_t expert, float* out, ThreadPool& threads) {
  const int64_t rows = tensor.shape[tensor.shape.size() - 2], columns = tensor.columns();
  threads.run(rows, codec_of(tensor.codec).info().is_whole ? rows : 32,
              [&](int64_t begin, int64_t end, int) { decode_rows(tensor, expert * rows + begin, end - begin, out + begin * columns); });
}

}  // namespace tq
