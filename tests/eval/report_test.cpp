#include "eval/report/report.h"

#include <gmock/gmock.h>

#include "eval/report/svg.h"

namespace tq::report {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

Report small_report() {
  TextResult text;
  text.name = "a <b> & \"c\"";
  text.window = 5, text.windows = 2, text.tokens = 8;
  text.kl = {0.25, 0.01};
  text.positions.per_window = 4;
  text.positions.kl = text.positions.loss = text.positions.loss_original = text.positions.same_top = {1, 2, 3, 4, 5, 6, 7, 8};
  ModelFacts model{.name = "model", .description = "llama", .format = "TurboQuant"};
  model.layers = 1, model.file_bytes = 1000000, model.bytes_in_16_bits = 4000000, model.bits_linears = 3.1, model.bits_all = 4;
  model.tensors = {{"l.q_proj", "query", 0, 3.0, 0.01}, {"head", "head", -1, 6.0, 0.001}};
  return {.original = model, .subjects = {{.model = model, .texts = {text}}}, .protocol = "every token"};
}

TEST(Report, SameFactsGiveTheSameBytes) { EXPECT_EQ(page(small_report()), page(small_report())); }

TEST(Report, LoadsNothingFromElsewhere) {
  const std::string html = page(small_report());
  EXPECT_THAT(html, Not(HasSubstr("http")));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("src=")));
}

TEST(Report, NamesOfFilesAreNoMarkup) {
  const std::string html = page(small_report());
  EXPECT_THAT(html, Not(HasSubstr("a <b>")));
  EXPECT_THAT(html, HasSubstr("a &lt;b&gt; &amp; &quot;c&quot;"));
}

TEST(Report, ShowsEverySectionThatHasFacts) {
  const std::string html = page(small_report());
  for (const char* title : {"Size", "KL divergence by text", "KL divergence by position", "Figures", "Error by tensor", "Rates by layer"})
    EXPECT_THAT(html, HasSubstr(title));
}

TEST(Report, SaysHowTheRatesWereChosenAndNamesAreNoMarkupThere) {
  Report report = small_report();
  report.subjects[0].model.rates_choice = " Tied for <vllm>, which costs about 0.0012 of KL (an estimate).";
  EXPECT_THAT(page(report), HasSubstr("Tied for &lt;vllm&gt;, which costs about 0.0012 of KL (an estimate)."));
}

TEST(Report, WithoutMeasurementsThereAreSizesAlone) {
  Report report = small_report();
  report.subjects[0].texts.clear();
  const std::string html = page(report);
  EXPECT_THAT(html, HasSubstr("Size"));
  EXPECT_THAT(html, Not(HasSubstr("KL divergence")));
}

TEST(Report, AnOriginalOfFewBitsIsSaidToBeOne) {
  EXPECT_THAT(page(small_report()), HasSubstr("itself a quantized file, of 3.10 bits"));
  Report report = small_report();
  report.original->bits_linears = 16;
  EXPECT_THAT(page(report), Not(HasSubstr("itself a quantized file")));
}

TEST(Report, TasksShowDifferencesFlipsAndTheMarkOfChance) {
  Report report = small_report();
  const TaskResult original{"mmlu", "how", {"1", "2", "3", "4"}, {}, {{"acc", {1, 1, 1, 0}, 0.25, true}}};
  TaskResult own = original;
  own.metrics[0].values = {1, 0, 0, 1};
  report.original_tasks = {original};
  report.subjects[0].tasks = {own};
  const std::string html = page(report);
  EXPECT_THAT(html, HasSubstr("mmlu"));
  EXPECT_THAT(html, HasSubstr("+1 −2"));
  EXPECT_THAT(html, HasSubstr("50.0 †"));
  EXPECT_THAT(html, HasSubstr("-25.0"));
}

TEST(Report, MethodsAreLinesOverBits) {
  Report report = small_report();
  report.subjects[0].method = "turboquant";
  report.subjects.push_back(report.subjects[0]);
  report.subjects[1].model.bits_linears = 4.1;
  report.subjects[1].texts[0].kl.mean = 0.05;
  const std::string html = page(report);
  EXPECT_THAT(html, HasSubstr("KL divergence against bits"));
  EXPECT_THAT(html, HasSubstr("0.05000 ± 0.01000 at 4.100 bits"));
}

TEST(Report, ErrorsByPositionAreThoseOfWindows) {
  EXPECT_THAT(errors_by_position({1, 2, 3, 4}, 2, 2), ElementsAre(1, 1));  // windows {1, 2} and {3, 4}
  EXPECT_THAT(errors_by_position({1, 2}, 2, 2), ElementsAre(0, 0));
}

TEST(Report, PositionsOfAllWindowsAreAveraged) {
  EXPECT_THAT(by_position({1, 2, 3, 4, 5, 6, 7, 8}, 4, 2), ElementsAre(3.5, 5.5));
  EXPECT_THAT(by_position({1, 3}, 1, 9), ElementsAre(2));
  EXPECT_TRUE(by_position({}, 4, 2).empty());
}

TEST(Report, TicksAreRoundAndReachTheTop) {
  EXPECT_THAT(ticks_to(0.47, 5), ElementsAre(0, 0.1, 0.2, testing::DoubleEq(0.3), 0.4, 0.5));
  EXPECT_EQ(ticks_to(0).size(), 6u);
  EXPECT_EQ(tick_text(0.25, 0.25), "0.25");
  EXPECT_EQ(tick_text(100, 50), "100");
}

}  // namespace
}  // namespace tq::report
