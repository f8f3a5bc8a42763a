#include <algorithm>

#include "token/jinja/parser.h"

namespace tq::jinja {
namespace {

constexpr int kMaxBlocks = 60;  // of blocks within each other

bool is_constant_name(const std::string& name) {
  return name == "true" || name == "True" || name == "false" || name == "False" || name == "none" || name == "None";
}

}  // namespace

Body parse(std::string_view source) { return Parser(tokenize(source)).template_body(); }

Body Parser::template_body() {
  Body out = body({});
  if (now().kind != TokenKind::kEnd) unexpected();
  return out;
}

// Statements up to a tag that begins with one of the names, which stays to be read, or up to the end.
Body Parser::body(std::initializer_list<std::string_view> ends) {
  if (++depth_ > kMaxBlocks) throw Problem{fmt::format("blocks nest deeper than {} levels", kMaxBlocks), now().line};
  Body out;
  while (now().kind != TokenKind::kEnd) {
    const int line = now().line;
    if (now().kind == TokenKind::kData) {
      out.push_back({.kind = StatementKind::kData, .line = line, .text = now().text});
      advance();
    } else if (now().kind == TokenKind::kPrintBegin) {
      advance();
      out.push_back({.kind = StatementKind::kPrint, .line = line});
      out.back().expression = tuple(true, false);
      if (now().kind != TokenKind::kPrintEnd) unexpected("'}}'");
      advance();
    } else {
      advance();
      if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return is_name(end); })) {
        --depth_;
        return out;
      }
      out.push_back(statement());
      if (now().kind != TokenKind::kBlockEnd) unexpected("'%}'");
      advance();
    }
  }
  if (ends.size()) throw Problem{fmt::format("the template ends before '{}'", *(ends.end() - 1)), now().line};
  --depth_;
  return out;
}

Statement Parser::statement() {
  const int line = now().line;
  const std::string tag = expect_name();
  if (tag == "if") return if_statement(line);
  if (tag == "for") return for_statement(line);
  if (tag == "set") return set_statement(line);
  if (tag == "macro") return macro_statement(line);
  if (tag == "call") return call_statement(line);
  if (tag == "filter") return filter_statement(line);
  if (tag == "with") return with_statement(line);
  if (tag == "generation") return block(StatementKind::kGeneration, line, "endgeneration");
  if (tag == "break" || tag == "continue") {
    if (loops_ == 0) throw Problem{fmt::format("'{}' outside of a loop", tag), line};
    return {.kind = tag == "break" ? StatementKind::kBreak : StatementKind::kContinue, .line = line};
  }
  throw Problem{fmt::format("the tag '{:.40}' is not known here", tag), line};
}

// After a body: passes over the name that ended it and the tag's end.
void Parser::end_block(std::string_view end) {
  if (!is_name(end)) unexpected(fmt::format("'{}'", end));
  advance();
}

namespace {
struct Restore {
  int& value;
  int before;
  Restore(int& v, int now) : value(v), before(v) { v = now; }
  ~Restore() { value = before; }
};
}  // namespace

Statement Parser::block(StatementKind kind, int line, std::string_view end) {
  if (now().kind != TokenKind::kBlockEnd) unexpected("'%}'");
  advance();
  Statement out{.kind = kind, .line = line};
  const Restore loops(loops_, 0);
  out.body = body({end});
  end_block(end);
  return out;
}

Statement Parser::if_statement(int line) {
  Statement out{.kind = StatementKind::kIf, .line = line};
  const auto tag_end = [&] {
    if (now().kind != TokenKind::kBlockEnd) unexpected("'%}'");
    advance();
  };
  ExpressionPtr condition = tuple(false, false);
  for (;;) {
    tag_end();
    Body inner = body({"elif", "else", "endif"});
    out.branches.push_back({std::move(condition), std::move(inner)});
    if (skip_name("elif")) {
      condition = tuple(false, false);
      continue;
    }
    if (skip_name("else")) {
      tag_end();
      Body last = body({"endif"});
      out.branches.push_back({nullptr, std::move(last)});
    }
    end_block("endif");
    return out;
  }
}

Statement Parser::for_statement(int line) {
  Statement out{.kind = StatementKind::kFor, .line = line};
  out.target = target(false, "in");
  if (!skip_name("in")) unexpected("'in'");
  out.expression = tuple(false, false, "recursive");
  if (skip_name("if")) out.condition = expression();
  if (is_name("recursive")) throw Problem{"recursive loops are not supported", line};
  if (now().kind != TokenKind::kBlockEnd) unexpected("'%}'");
  advance();
  ++loops_;
  out.body = body({"endfor", "else"});
  --loops_;
  if (skip_name("else")) {
    if (now().kind != TokenKind::kBlockEnd) unexpected("'%}'");
    advance();
    out.otherwise = body({"endfor"});
  }
  end_block("endfor");
  return out;
}

Target Parser::one_target(bool with_namespace) {
  if (skip_operator("(")) {
    if (++depth_ > kMaxBlocks) throw Problem{"an assignment nests too deep", now().line};
    Target out = target(with_namespace, "");
    --depth_;
    expect_operator(")");
    return out;
  }
  Target out{.name = expect_name()};
  if (is_constant_name(out.name)) throw Problem{fmt::format("can't assign to '{}'", out.name), now().line};
  if (with_namespace && skip_operator(".")) out.attribute = expect_name();
  return out;
}

Target Parser::target(bool with_namespace, std::string_view end_name) {
  Target first = one_target(with_namespace);
  if (!is_operator(",")) return first;
  Target out{.name = "", .is_tuple = true};
  out.parts.push_back(std::move(first));
  while (skip_operator(",")) {
    if (is_operator("=") || is_operator(")") || (!end_name.empty() && is_name(end_name))) break;
    out.parts.push_back(one_target(with_namespace));
  }
  return out;
}

Statement Parser::set_statement(int line) {
  Statement out{.kind = StatementKind::kSet, .line = line};
  out.target = target(true, "");
  if (skip_operator("=")) {
    out.expression = tuple(true, false);
    return out;
  }
  out.kind = StatementKind::kSetBlock;
  out.expression = make(ExpressionKind::kPiped, line);
  while (is_operator("|")) out.expression = filter(std::move(out.expression));
  Statement inner = block(StatementKind::kSetBlock, line, "endset");
  out.body = std::move(inner.body);
  return out;
}

Statement Parser::filter_statement(int line) {
  ExpressionPtr piped = filter(make(ExpressionKind::kPiped, line));
  while (is_operator("|")) piped = filter(std::move(piped));
  Statement out = block(StatementKind::kFilterBlock, line, "endfilter");
  out.expression = std::move(piped);
  return out;
}

void Parser::parameters(Macro& macro) {
  expect_operator("(");
  for (bool first = true; !is_operator(")"); first = false) {
    if (!first) expect_operator(",");
    Parameter one{expect_name(), nullptr};
    if (is_constant_name(one.name)) throw Problem{fmt::format("'{}' can't be a parameter", one.name), now().line};
    if (skip_operator("=")) one.fallback = expression();
    else if (!macro.parameters.empty() && macro.parameters.back().fallback)
      throw Problem{fmt::format("the parameter '{}' needs a default, as those before it have one", one.name), now().line};
    macro.parameters.push_back(std::move(one));
  }
  expect_operator(")");
}

std::unique_ptr<Macro> Parser::macro_with_body(std::string name, std::string_view end, bool with_parameters) {
  auto out = std::make_unique<Macro>();
  out->name = std::move(name);
  Macro* const outer = std::exchange(macro_, out.get());
  if (with_parameters) parameters(*out);
  if (end != "endcall") {
    Statement inner = block(StatementKind::kMacro, now().line, end);
    out->body = std::move(inner.body);
  }
  macro_ = outer;
  return out;
}

Statement Parser::macro_statement(int line) {
  Statement out{.kind = StatementKind::kMacro, .line = line};
  std::string name = expect_name();
  out.macro = macro_with_body(std::move(name), "endmacro", true);
  return out;
}

Statement Parser::call_statement(int line) {
  Statement out{.kind = StatementKind::kCallBlock, .line = line};
  out.macro = macro_with_body("caller", "endcall", is_operator("("));
  out.expression = expression();
  if (out.expression->kind != ExpressionKind::kCall) throw Problem{"expected a call after 'call'", line};
  Macro* const outer = std::exchange(macro_, out.macro.get());
  Statement inner = block(StatementKind::kMacro, line, "endcall");
  macro_ = outer;
  out.macro->body = std::move(inner.body);
  return out;
}

Statement Parser::with_statement(int line) {
  std::vector<std::pair<Target, ExpressionPtr>> assignments;
  while (now().kind != TokenKind::kBlockEnd) {
    if (!assignments.empty()) expect_operator(",");
    Target to = one_target(false);
    expect_operator("=");
    assignments.emplace_back(std::move(to), expression());
  }
  advance();
  Statement out{.kind = StatementKind::kWith, .line = line, .assignments = std::move(assignments)};
  out.body = body({"endwith"});
  end_block("endwith");
  return out;
}

}  // namespace tq::jinja
