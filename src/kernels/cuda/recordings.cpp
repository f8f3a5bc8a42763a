#include "kernels/cuda/recordings.h"

#include <algorithm>

#include "kernels/cuda/expect.h"

namespace tq::cuda {
namespace {

constexpr size_t kMostRecordings = 128;

// Null without memory for it.
cudaGraphExec_t record(cudaStream_t stream, const std::function<void()>& enqueue) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t made = nullptr;
  expect(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording");
  enqueue();
  expect(cudaStreamEndCapture(stream, &graph), "recording");
  const cudaError_t status = cudaGraphInstantiate(&made, graph, 0);
  if (status == cudaErrorMemoryAllocation) (void)cudaGetLastError(), made = nullptr;
  else expect(status, "recording");
  expect(cudaGraphDestroy(graph), "recording");
  return made;
}

}  // namespace

Recordings::~Recordings() {
  while (!recordings_.empty()) forget(recordings_.begin());
}

void Recordings::forget(std::map<uint64_t, Recording>::iterator recording) {
  if (recording->second.graph) cudaGraphExecDestroy(recording->second.graph);
  recordings_.erase(recording);
}

// The one used longest ago goes.
void Recordings::make_room() {
  if (recordings_.size() < kMostRecordings) return;
  forget(
      std::min_element(recordings_.begin(), recordings_.end(), [](const auto& a, const auto& b) { return a.second.used < b.second.used; }));
}

void Recordings::run(uint64_t key, const uint64_t& generation, cudaStream_t stream, const std::function<void()>& enqueue) {
  auto found = recordings_.find(key);
  if (found != recordings_.end() && found->second.generation != generation) {
    forget(found);
    found = recordings_.end();
  }
  if (found == recordings_.end()) {
    make_room();
    enqueue();
    recordings_[key] = {.generation = generation, .used = ++uses_};
    return;
  }
  Recording& recording = found->second;
  recording.used = ++uses_;
  if (!recording.graph) recording.graph = record(stream, enqueue);
  if (!recording.graph) return enqueue();
  expect(cudaGraphLaunch(recording.graph, stream), "repeating");
}

}  // namespace tq::cuda
