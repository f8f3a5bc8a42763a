// A safetensors file of any bytes is refused, or its tensors tile its data section.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "io/safetensors.h"

namespace {

void read(std::span<const std::byte> file) {
  const auto archive = tq::safetensors::Archive::parse(file, "fuzz");
  if (!archive) return;
  uint64_t sum = 0, bytes = 0;
  for (const tq::safetensors::Tensor& tensor : (*archive)->tensors()) {
    TQ_CHECK((*archive)->find(tensor.name) == &tensor.view);
    for (const std::byte b : tensor.view.span()) sum += static_cast<uint64_t>(b);
    bytes += tensor.view.bytes();
  }
  TQ_CHECK(bytes + 8 <= file.size() && sum <= 255 * bytes);
}

}  // namespace

// Once as it is, once with a header length that fits, which mutations seldom hit.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  read(file);
  const auto brace = std::find(file.rbegin(), file.rend(), std::byte{'}'});
  const auto end = static_cast<uint64_t>(file.rend() - brace);
  if (end <= 8) return 0;
  std::vector<std::byte> fitted(file.begin(), file.end());
  const uint64_t length = end - 8;
  std::memcpy(fitted.data(), &length, 8);
  read(fitted);
  return 0;
}
