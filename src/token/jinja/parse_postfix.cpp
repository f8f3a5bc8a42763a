// What follows an operand: subscripts, calls, filters, tests.
#include "token/jinja/parser.h"

namespace tq::jinja {

ExpressionPtr Parser::postfix(ExpressionPtr left) {
  for (;;) {
    if (is_operator(".") || is_operator("[")) left = subscript(std::move(left));
    else if (is_operator("(")) left = call(std::move(left));
    else return left;
  }
}

ExpressionPtr Parser::filters_and_tests(ExpressionPtr left) {
  for (;;) {
    if (is_operator("|")) left = filter(std::move(left));
    else if (is_name("is")) left = test(std::move(left));
    else if (is_operator("(")) left = call(std::move(left));
    else return left;
  }
}

ExpressionPtr Parser::subscript(ExpressionPtr left) {
  const int line = now().line;
  if (skip_operator(".")) {
    if (now().kind == TokenKind::kName) {
      auto out = make(ExpressionKind::kAttribute, line, parts_of(std::move(left)));
      out->name = expect_name();
      return out;
    }
    if (now().kind != TokenKind::kInteger) unexpected("a name or a number");
    return make(ExpressionKind::kItem, line, parts_of(std::move(left), primary()));
  }
  expect_operator("[");
  if (is_operator("]")) unexpected("a subscript");
  ExpressionPtr first = is_operator(":") ? nullptr : expression();
  if (!is_operator(":")) {
    if (is_operator(",")) {
      auto items = parts_of(std::move(first));
      while (skip_operator(",")) items.push_back(expression());
      first = make(ExpressionKind::kTuple, line, std::move(items));
    }
    expect_operator("]");
    return make(ExpressionKind::kItem, line, parts_of(std::move(left), std::move(first)));
  }
  auto parts = parts_of(std::move(left), std::move(first));
  for (int i = 0; i < 2; ++i) {
    const bool present = skip_operator(":") && !is_operator(":") && !is_operator("]");
    parts.push_back(present ? expression() : nullptr);
  }
  expect_operator("]");
  return make(ExpressionKind::kSlice, line, std::move(parts));
}

CallArguments Parser::call_arguments() {
  CallArguments out;
  expect_operator("(");
  for (bool first = true; !is_operator(")"); first = false) {
    if (!first) expect_operator(",");
    if (is_operator(")")) break;
    if (out.double_star) unexpected();
    if (is_operator("*") && !out.star) {
      advance();
      out.star = expression();
    } else if (skip_operator("**")) {
      out.double_star = expression();
    } else if (now().kind == TokenKind::kName && ahead().kind == TokenKind::kOperator && ahead().text == "=") {
      std::string name = expect_name();
      advance();
      out.named.emplace_back(std::move(name), expression());
    } else {
      if (out.star || !out.named.empty()) unexpected("a named argument");
      out.positional.push_back(expression());
    }
  }
  expect_operator(")");
  return out;
}

ExpressionPtr Parser::call(ExpressionPtr left) {
  auto out = make(ExpressionKind::kCall, now().line, parts_of(std::move(left)));
  out->arguments = call_arguments();
  grow(*out);
  return out;
}

std::string Parser::dotted_name() {
  std::string name = expect_name();
  while (skip_operator(".")) name += "." + expect_name();
  return name;
}

// One filter, without its '|' when the subject is a block.
ExpressionPtr Parser::filter(ExpressionPtr subject) {
  skip_operator("|");
  auto out = make(ExpressionKind::kFilter, now().line, parts_of(std::move(subject)));
  out->name = dotted_name();
  if (is_operator("(")) out->arguments = call_arguments();
  grow(*out);
  return out;
}

ExpressionPtr Parser::test(ExpressionPtr subject) {
  const int line = now().line;
  advance();
  const bool negated = skip_name("not");
  auto out = make(ExpressionKind::kTest, line, parts_of(std::move(subject)));
  out->name = dotted_name();
  const bool literal = now().kind == TokenKind::kName || now().kind == TokenKind::kString || now().kind == TokenKind::kInteger ||
                       now().kind == TokenKind::kFloat || is_operator("[") || is_operator("{");
  if (is_operator("(")) {
    out->arguments = call_arguments();
  } else if (literal && !is_name("else") && !is_name("or") && !is_name("and")) {
    if (is_name("is")) throw Problem{"tests can't be chained with 'is'", line};
    out->arguments.positional.push_back(postfix(primary()));
  }
  grow(*out);
  return negated ? make(ExpressionKind::kNot, line, parts_of(std::move(out))) : std::move(out);
}

}  // namespace tq::jinja
