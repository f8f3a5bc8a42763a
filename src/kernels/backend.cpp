#include "kernels/backend.h"

namespace tq {

int64_t kv_row_bytes(KvType type, int64_t head_dim) {
  switch (type) {
    case KvType::kF32: return head_dim * 4;
    case KvType::kF16: return (head_dim * 2 + 3) / 4 * 4;
    case KvType::kQ8: return (head_dim + 3) / 4 * 4 + 4;
  }
  __builtin_unreachable();
}

std::string_view kv_type_name(KvType type) {
  switch (type) {
    case KvType::kF32: return "f32";
    case KvType::kF16: return "f16";
    case KvType::kQ8: return "q8";
  }
  __builtin_unreachable();
}

}  // namespace tq
