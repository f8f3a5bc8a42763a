// Finds the taps of one rate and window: those with the least Viterbi error on an i.i.d. unit Gaussian. Prints two lines,
//   taps K L c_0 … c_(L-1)
//   snr K L FREE RING128 RING256 RING1024     dB on fresh samples; FREE: one ring of 16384 rows
// --evaluations 0: only measures the last taps of --lines.
// --lines FILE: lines of this form from earlier searches; the taps of the same rate and no longer window are starts too.
// The same seed gives the same taps on any number of threads. Method: many random starts on few samples; evolution from the best of
// them for a while; evolution from the best of those until the evaluations are used up; the winner is chosen on samples of its own.
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <numbers>
#include <numeric>
#include <sstream>
#include <string>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "cmaes.h"
#include "codec/grid/encoder.h"

namespace tq::lab {
namespace {

struct Settings {
  int rate = 3;
  int window = 12;
  uint64_t seed = 1;
  int64_t evaluations = 4000;
  int threads = 0;
  int64_t samples = 8192;  // of one evaluation
  std::string lines;
};

std::vector<float> gaussians(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(rng.gaussian());
  return values;
}

// x with P(X > x) = upper, for upper in (0, 0.5]: Newton's method on the logarithm of the tail.
double gaussian_quantile(double upper) {
  double x = std::sqrt(std::max(0.0, -2.0 * std::log(2.0 * upper)));
  for (int i = 0; i < 50; ++i) {
    const double tail = 0.5 * std::erfc(x / std::numbers::sqrt2), density = std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);
    const double move = tail / density * std::log(tail / upper);
    x += move;
    if (std::fabs(move) < 1e-12) break;
  }
  return x;
}

// One sample of each of `count` equally likely intervals, in random order: at high rates the few samples beyond the largest value decide,
// and their number must not be luck.
std::vector<float> stratified_gaussians(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    const double p = (static_cast<double>(i) + std::max(rng.uniform(), 1e-3)) / static_cast<double>(count);
    values[i] = static_cast<float>(p < 0.5 ? -gaussian_quantile(p) : gaussian_quantile(std::max(1.0 - p, 1e-12)));
  }
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[rng.below(i)]);
  return values;
}

// Taps of the rate and at most the window in a file of lines, longer windows last; filled up with zeros, which changes nothing.
std::vector<Point> read_lines(const Settings& s) {
  std::vector<Point> found;
  std::ifstream file(s.lines);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind;
    int rate = 0, window = 0;
    if (!(words >> kind >> rate >> window) || kind != "taps" || rate != s.rate || window > s.window) continue;
    Point& point = found.emplace_back(static_cast<size_t>(s.window), 0.0);
    for (int i = 0; i < window; ++i) words >> point[static_cast<size_t>(i)];
  }
  return found;
}

// Mean squared error of columns of `rows` rows that cover the samples.
double mean_error(int rate, const Point& point, const std::vector<float>& samples, int64_t rows, int64_t first, int64_t last) {
  const std::vector<uint8_t> rates(static_cast<size_t>((rows + grid::kRateRows - 1) / grid::kRateRows), static_cast<uint8_t>(rate));
  const grid::Layout layout(rows, 1, rates);
  grid::TapsByRate taps;
  taps[static_cast<size_t>(rate)].assign(point.begin(), point.end());
  grid::ColumnEncoder encoder(layout, taps);
  std::vector<uint8_t> bits(static_cast<size_t>(layout.plane_rows));
  const std::vector<float> ones(static_cast<size_t>(rows), 1.0f);
  std::vector<float> value(static_cast<size_t>(rows));
  double error = 0.0;
  for (int64_t at = first; at + rows <= last; at += rows) {
    encoder.encode(samples.data() + at, ones.data(), bits.data(), value.data());
    for (int64_t r = 0; r < rows; ++r) {
      const double e = static_cast<double>(samples[static_cast<size_t>(at + r)]) - static_cast<double>(value[static_cast<size_t>(r)]);
      error += e * e;
    }
  }
  return error / static_cast<double>((last - first) / rows * rows);
}

class Search {
 public:
  explicit Search(const Settings& settings)
      : s_(settings),
        pool_(settings.threads),
        train_(stratified_gaussians(s_.samples, s_.seed * 4 + 1)),
        judge_(stratified_gaussians(4 * s_.samples, s_.seed * 4 + 2)),
        known_(read_lines(s_)) {}

  bool has_known() const { return !known_.empty(); }

  Point run() {
    if (s_.evaluations == 0) return known_.back();
    std::vector<Point> starts = best_starts();
    std::vector<CmaEs> runs;
    const int64_t share = s_.evaluations * 2 / 5 / static_cast<int64_t>(starts.size());
    for (size_t i = 0; i < starts.size(); ++i) {
      runs.emplace_back(starts[i], 0.05 * norm(starts[i]) / std::sqrt(s_.window), kPopulation, s_.seed * 1000 + i);
      evolve(runs.back(), share);
    }
    std::stable_sort(runs.begin(), runs.end(), [](const CmaEs& a, const CmaEs& b) { return a.best_cost() < b.best_cost(); });
    runs.erase(runs.begin() + std::min<ptrdiff_t>(2, std::ssize(runs)), runs.end());
    for (CmaEs& run : runs) evolve(run, s_.evaluations * 3 / 10 / std::ssize(runs));

    std::vector<Point> finalists;
    for (const CmaEs& run : runs) finalists.push_back(run.best());
    finalists.insert(finalists.end(), known_.begin(), known_.end());
    const std::vector<double> cost = evaluate(finalists, judge_);
    return rounded(finalists[static_cast<size_t>(std::min_element(cost.begin(), cost.end()) - cost.begin())]);
  }

  // dB on fresh samples.
  double snr(const Point& taps, int64_t rows) {
    const int64_t count = s_.window > 12 ? int64_t{1} << 17 : int64_t{1} << 19;
    const std::vector<float> fresh = gaussians(count, s_.seed * 4 + 3);
    const int64_t columns = count / rows;
    std::vector<double> error(static_cast<size_t>(columns));
    pool_.run(columns, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t c = begin; c < end; ++c)
        error[static_cast<size_t>(c)] = mean_error(s_.rate, taps, fresh, rows, c * rows, (c + 1) * rows);
    });
    return -10.0 * std::log10(std::accumulate(error.begin(), error.end(), 0.0) / static_cast<double>(columns));
  }

 private:
  static constexpr int kPopulation = 32;
  static constexpr size_t kRuns = 8;

  static double norm(const Point& p) { return std::sqrt(std::inner_product(p.begin(), p.end(), p.begin(), 0.0)); }
  // The table holds five digits behind the point; what is judged must be what is stored.
  static Point rounded(Point p) {
    for (double& c : p) c = std::round(c * 1e5) / 1e5;
    return p;
  }

  std::vector<double> evaluate(const std::vector<Point>& points, const std::vector<float>& samples) {
    std::vector<double> cost(points.size());
    const int64_t rows = static_cast<int64_t>(samples.size());
    pool_.run(std::ssize(points), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        cost[static_cast<size_t>(i)] = std::log(mean_error(s_.rate, points[static_cast<size_t>(i)], samples, rows, 0, rows));
    });
    return cost;
  }

  void evolve(CmaEs& run, int64_t evaluations) {
    for (int64_t used = 0; used + kPopulation <= evaluations && run.step() > 1e-6; used += kPopulation)
      run.tell(evaluate(run.ask(), train_));
  }

  // Taps of geometric size with a random ratio, order and signs: 1 is a random code, 2 a uniform grid. The reconstruction's variance is
  // that of a good code, 1 - 4^-K.
  Point random_start(Rng& rng) const {
    Point taps(static_cast<size_t>(s_.window));
    const double ratio = 1.0 + rng.uniform();
    double size = 1.0;
    for (double& c : taps) c = size * (0.7 + 0.6 * rng.uniform()) * (rng.bits() & 1 ? 1.0 : -1.0), size /= ratio;
    for (size_t i = taps.size(); i > 1; --i) std::swap(taps[i - 1], taps[rng.below(i)]);
    const double scale = std::sqrt(1.0 - std::pow(4.0, -s_.rate)) / norm(taps);
    for (double& c : taps) c *= scale;
    return taps;
  }

  // The best of random starts on an eighth of the samples, and up to four known ones.
  std::vector<Point> best_starts() {
    Rng rng(s_.seed);
    const std::vector<float> few(train_.begin(), train_.begin() + s_.samples / 8);
    std::vector<Point> points(static_cast<size_t>(std::max<int64_t>(s_.evaluations * 24 / 10, int64_t{kRuns})));
    for (Point& point : points) point = random_start(rng);
    const std::vector<double> cost = evaluate(points, few);
    std::vector<size_t> order(points.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return cost[a] < cost[b]; });
    std::vector<Point> best;
    for (size_t i = 0; i < kRuns; ++i) best.push_back(points[order[i]]);
    for (size_t i = 0; i < std::min(known_.size(), kRuns / 2); ++i) best[kRuns - 1 - i] = known_[known_.size() - 1 - i];
    return best;
  }

  Settings s_;
  ThreadPool pool_;
  std::vector<float> train_, judge_;
  std::vector<Point> known_;
};

bool parse(int argc, char** argv, Settings& s) {
  std::map<std::string, std::string> flags;
  for (int i = 1; i + 1 < argc; i += 2) flags[argv[i]] = argv[i + 1];
  const auto number = [&](const char* name, int64_t fallback) {
    const auto found = flags.find(name);
    const int64_t value = found == flags.end() ? fallback : std::atoll(found->second.c_str());
    if (found != flags.end()) flags.erase(found);
    return value;
  };
  s.rate = static_cast<int>(number("--rate", s.rate));
  s.window = static_cast<int>(number("--window", s.window));
  s.seed = static_cast<uint64_t>(number("--seed", 1));
  s.evaluations = number("--evaluations", s.evaluations);
  s.threads = static_cast<int>(number("--threads", 0));
  s.samples = number("--samples", s.samples);
  s.lines = flags["--lines"];
  flags.erase("--lines");
  return argc % 2 == 1 && flags.empty() && s.rate >= 1 && s.rate <= grid::kMaxRate && s.window >= s.rate && s.window <= 20 &&
         s.samples >= 1024 && (s.evaluations >= 100 || s.evaluations == 0);
}

}  // namespace
}  // namespace tq::lab

int main(int argc, char** argv) {
  using namespace tq::lab;
  Settings settings;
  if (!parse(argc, argv, settings)) {
    std::fprintf(stderr, "usage: tap_search --rate K --window L [--seed S] [--evaluations N] [--threads T] [--samples M] [--lines FILE]\n");
    return 2;
  }
  mallopt(M_MMAP_THRESHOLD, 1 << 30);  // the encoders' buffers come and go
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  const auto start = std::chrono::steady_clock::now();
  Search search(settings);
  if (settings.evaluations == 0 && !search.has_known()) {
    std::fprintf(stderr, "tap_search: --lines names no taps of rate %d and window %d or less\n", settings.rate, settings.window);
    return 2;
  }
  const Point taps = search.run();
  std::printf("taps %d %d", settings.rate, settings.window);
  for (const double c : taps) std::printf(" %.5f", c);
  std::printf("\nsnr %d %d %.3f %.3f %.3f %.3f\n", settings.rate, settings.window, search.snr(taps, 16384), search.snr(taps, 128),
              search.snr(taps, 256), search.snr(taps, 1024));
  std::fprintf(stderr, "rate %d window %d: %.1f s\n", settings.rate, settings.window,
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return 0;
}
