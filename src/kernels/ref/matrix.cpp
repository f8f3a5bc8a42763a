#include "kernels/ref/matrix.h"

namespace tq::ref {

Result<std::unique_ptr<RefMatrix>> decode_matrix(const PackedTensor& tensor, int64_t expert, ThreadPool& threads) {
  const size_t dims = tensor.shape.size();
  if (dims != 2 && dims != 3) return bad_input("a matrix was expected, the tensor's shape is {}", shape_text(tensor.shape));
  const int64_t rows = tensor.shape[dims - 2];
  auto matrix = std::make_unique<RefMatrix>(rows, tensor.columns());
  threads.run(rows, 16, [&](int64_t begin, int64_t end, int) {
    decode_rows(tensor, expert * rows + begin, end - begin, matrix->values.data() + begin * tensor.columns());
  });
  return matrix;
}

}  // namespace tq::ref
