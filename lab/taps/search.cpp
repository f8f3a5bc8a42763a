// Finds the taps of one rate and window: those with the least Viterbi error on an i.i.d. unit Gaussian. Prints two lines,
//   taps K L c_0 … c_(L-1)
//   snr K L FREE RING128 RING256 RING1024     dB on fresh samples; FREE: one ring of 16384 rows
// The same seed gives the same taps on any number of threads. Method: many random starts on few samples; evolution from the best of
// them for a while; evolution from the best of those until the evaluations are used up; the winner is chosen on samples of its own.
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <string>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "cmaes.h"
#include "codec/grid/encoder.h"
#include "codec/grid/taps.h"

namespace tq::lab {
namespace {

struct Settings {
  int rate = 3;
  int window = 12;
  uint64_t seed = 1;
  int64_t evaluations = 4000;
  int threads = 0;
  int64_t samples = 8192;  // of one evaluation
};

std::vector<float> gaussians(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(rng.gaussian());
  return values;
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
        train_(gaussians(s_.samples, s_.seed * 4 + 1)),
        judge_(gaussians(judge_count(), s_.seed * 4 + 2)) {}

  Point run() {
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
    const grid::Taps& known = grid::default_taps(s_.rate, s_.window);
    if (!known.empty()) finalists.emplace_back(known.begin(), known.end());
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

  int64_t judge_count() const { return 4 * s_.samples; }
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

  // The best of random starts on an eighth of the samples, and the known taps.
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
    const grid::Taps& known = grid::default_taps(s_.rate, s_.window);
    if (!known.empty()) best.back().assign(known.begin(), known.end());
    return best;
  }

  Settings s_;
  ThreadPool pool_;
  std::vector<float> train_, judge_;
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
  return argc % 2 == 1 && flags.empty() && s.rate >= 1 && s.rate <= grid::kMaxRate && s.window >= s.rate && s.window <= 20 &&
         s.samples >= 1024 && s.evaluations >= 100;
}

}  // namespace
}  // namespace tq::lab

int main(int argc, char** argv) {
  using namespace tq::lab;
  Settings settings;
  if (!parse(argc, argv, settings)) {
    std::fprintf(stderr, "usage: tap_search --rate K --window L [--seed S] [--evaluations N] [--threads T] [--samples M]\n");
    return 2;
  }
  mallopt(M_MMAP_THRESHOLD, 1 << 30);  // the encoders' buffers come and go
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  const auto start = std::chrono::steady_clock::now();
  Search search(settings);
  const Point taps = search.run();
  std::printf("taps %d %d", settings.rate, settings.window);
  for (const double c : taps) std::printf(" %.5f", c);
  std::printf("\nsnr %d %d %.3f %.3f %.3f %.3f\n", settings.rate, settings.window, search.snr(taps, 16384), search.snr(taps, 128),
              search.snr(taps, 256), search.snr(taps, 1024));
  std::fprintf(stderr, "rate %d window %d: %.1f s\n", settings.rate, settings.window,
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return 0;
}
