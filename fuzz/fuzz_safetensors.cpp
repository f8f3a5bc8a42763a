// A safetensors file of any bytes is refused, or its tensors tile its data section.
#include <algorithm>
#include <cstdint>

#include "base/check.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto archive = tq::safetensors::Archive::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!archive) return 0;
  uint64_t sum = 0, bytes = 0;
  for (const tq::safetensors::Tensor& tensor : (*archive)->tensors()) {
    TQ_CHECK((*archive)->find(tensor.name) == &tensor.view);
    for (const std::byte b : tensor.view.span()) sum += static_cast<uint64_t>(b);
    bytes += tensor.view.bytes();
  }
  TQ_CHECK(bytes + 8 <= size && sum <= 255 * bytes);
  return 0;
}
