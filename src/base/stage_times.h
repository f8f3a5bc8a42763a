// How long the parts of a long operation take.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <utility>

namespace tq {

// Seconds by path: "allocation", "allocation/candidates", … A part contains the parts below it. For one thread.
class StageTimes {
 public:
  const std::map<std::string, double>& seconds() const { return seconds_; }

 private:
  friend class StageTimer;
  std::map<std::string, double> seconds_;
  std::string path_;  // of the parts that are being timed
};

// Counts its lifetime, below the parts that are being timed. times: or null. settle: called at the end, to wait for what a device still
// does.
class StageTimer {
 public:
  template <typename Settle>
  StageTimer(StageTimes* times, const char* part, Settle settle) : StageTimer(times, part) {
    settle_ = std::move(settle);
  }
  StageTimer(StageTimes* times, const char* part) : times_(times), start_(std::chrono::steady_clock::now()) {
    if (!times_) return;
    length_ = times_->path_.size();
    times_->path_ += (length_ > 0 ? "/" : "") + std::string(part);
  }
  ~StageTimer() {
    if (!times_) return;
    if (settle_) settle_();
    times_->seconds_[times_->path_] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    times_->path_.resize(length_);
  }
  StageTimer(const StageTimer&) = delete;

 private:
  StageTimes* times_;
  size_t length_ = 0;  // of the path around it
  std::function<void()> settle_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace tq
