#include "kernels/cuda/recordings.h"

#include <algorithm>

#include "kernels/cuda/expect.h"

namespace tq::cuda {
namespace {

constexpr size_t kMostRecordings = 128;
constexpr uint64_t kPatience = 256;  // passes before what had no memory is recorded again

}  // namespace

Recordings::~Recordings() {
  for (auto& [key, recording] : recordings_) drop_graph(recording);
}

void Recordings::drop_graph(Recording& recording) {
  if (recording.graph) cudaGraphExecDestroy(recording.graph);
  recording.graph = nullptr;
}

// The one used longest ago goes.
void Recordings::make_room() {
  if (recordings_.size() < kMostRecordings) return;
  const auto oldest =
      std::min_element(recordings_.begin(), recordings_.end(), [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
  drop_graph(oldest->second);
  recordings_.erase(oldest);
}

PassMode Recordings::mode(uint64_t key, uint64_t generation) const {
  const auto found = recordings_.find(key);
  if (found == recordings_.end() || found->second.generation != generation) return PassMode::kEnqueue;
  if (found->second.graph) return PassMode::kRepeat;
  return uses_ < found->second.enqueued_until ? PassMode::kEnqueue : PassMode::kRecord;
}

void Recordings::begin(uint64_t key, PassMode mode, cudaStream_t stream) {
  if (!recordings_.contains(key)) make_room();
  current_ = &recordings_[key], mode_ = mode;
  current_->used = ++uses_;
  if (mode != PassMode::kRepeat) drop_graph(*current_);
  // Relaxed, since other cards may be recorded at the same time, and be ready before.
  if (mode == PassMode::kRecord) expect(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "recording");
}

bool Recordings::end(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  expect(cudaStreamEndCapture(stream, &graph), "recording");
  cudaError_t status = cudaGraphInstantiate(&current_->graph, graph, 0);
  if (status != cudaSuccess) current_->graph = nullptr;
  else status = cudaGraphUpload(current_->graph, stream);  // else the first launch would find that there is no memory
  expect(cudaGraphDestroy(graph), "recording");
  if (status != cudaErrorMemoryAllocation) return expect(status, "recording"), true;
  (void)cudaGetLastError();  // the next call must not report it again
  drop_graph(*current_);
  current_->enqueued_until = uses_ + kPatience;
  return false;
}

void Recordings::finish(uint64_t generation, cudaStream_t stream) {
  if (!current_) return;
  if (mode_ == PassMode::kEnqueue) current_->generation = generation;
  else expect(cudaGraphLaunch(current_->graph, stream), "repeating");
  current_ = nullptr;
}

}  // namespace tq::cuda
