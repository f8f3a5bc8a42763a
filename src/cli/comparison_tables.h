// What `tq compare` prints: what it would make; divergences and tasks of all artifacts.
#pragma once

#include <span>
#include <string>

#include "cli/candidates.h"
#include "eval/report/report.h"

namespace tq::cli {

// An artifact that is there, or would be made.
struct PlannedArtifact {
  const Candidate* candidate;
  double stored = 0;   // bits a weight of the linears
  uint64_t bytes = 0;  // of the whole folder, at most
  double seconds = 0;  // that making it would take
};
// is_card: whether the seconds are a card's.
std::string plan_table(std::span<const PlannedArtifact> artifacts, std::span<const LeftOut> left_out, bool is_card);
Json plan_json(const CompareFlags& flags, std::span<const PlannedArtifact> artifacts, std::span<const LeftOut> left_out);
Json left_out_json(std::span<const LeftOut> left_out);

struct ComparedModel {
  const report::Subject* subject;
  std::string label;
  double bits = 0;     // that were asked for
  uint64_t bytes = 0;  // of the whole folder
  double seconds = 0;  // that it took to make; 0: not known
};

// A row for each model, by bits and then by its divergence on the first text; empty without texts.
std::string text_table(std::vector<ComparedModel> models, const report::Report& report);
// The same for each figure of each task, with differences from the original; figures that no claim can rest on are marked and named.
std::string task_table(std::vector<ComparedModel> models, const report::Report& report);

}  // namespace tq::cli
