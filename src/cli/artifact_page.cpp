#include "cli/artifact_page.h"

#include "artifact/reader.h"
#include "eval/report/report.h"

namespace tq::cli {

ReportOf artifact_page(const Model& original, double bits) {
  return [&original, bits](const std::string& directory) -> Result<std::string> {
    TQ_ASSIGN(const Model artifact, read_artifact(directory));
    report::Report report{.title = {}, .original = report::gather_facts(original), .subjects = {}, .original_tasks = {}, .protocol = {}};
    report::ModelFacts facts = report::gather_facts(artifact);
    facts.name = fmt::format("{}, {:.4g} bits", report.original->name, bits);
    report.subjects.push_back({.model = std::move(facts), .texts = {}, .tasks = {}, .method = {}});
    return report::page(report);
  };
}

}  // namespace tq::cli
