// What all of the parser stands on: reading tokens, making nodes.
#include "token/jinja/parser.h"

#include <algorithm>

namespace tq::jinja {
namespace {

constexpr int kMaxHeight = 300;  // of an expression's tree

}  // namespace

bool Parser::skip_operator(std::string_view text) {
  const bool found = is_operator(text);
  if (found) advance();
  return found;
}

bool Parser::skip_name(std::string_view text) {
  const bool found = is_name(text);
  if (found) advance();
  return found;
}

void Parser::unexpected(std::string_view wanted) const {
  static constexpr const char* kKinds[] = {"text", "'{{'", "'}}'", "'{%'", "'%}'", "", "a string", "", "", "", "the end of the template"};
  const std::string got = now().kind == TokenKind::kName || now().kind >= TokenKind::kInteger
                              ? (now().kind == TokenKind::kEnd ? kKinds[10] : fmt::format("'{:.40}'", now().text))
                              : kKinds[static_cast<int>(now().kind)];
  throw Problem{wanted.empty() ? "unexpected " + got : fmt::format("expected {}, found {}", wanted, got), now().line};
}

void Parser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) unexpected(fmt::format("'{}'", text));
}

std::string Parser::expect_name() {
  if (now().kind != TokenKind::kName) unexpected("a name");
  std::string name = now().text;
  advance();
  return name;
}

void Parser::grow(Expression& expression) const {
  int height = 0;
  const auto look = [&](const ExpressionPtr& part) { height = std::max(height, part ? part->height : 0); };
  for (const auto& part : expression.parts) look(part);
  for (const auto& part : expression.arguments.positional) look(part);
  for (const auto& [name, part] : expression.arguments.named) look(part);
  look(expression.arguments.star);
  look(expression.arguments.double_star);
  expression.height = height + 1;
  if (expression.height > kMaxHeight) throw Problem{fmt::format("an expression of more than {} levels", kMaxHeight), expression.line};
}

ExpressionPtr Parser::make(ExpressionKind kind, int line, std::vector<ExpressionPtr> parts) const {
  auto out = std::make_unique<Expression>(Expression{.kind = kind, .line = line});
  out->parts = std::move(parts);
  grow(*out);
  return out;
}

}  // namespace tq::jinja
