// Renderings against jinja2's (scripts/oracles/chat_templates.py), and what hostile templates get.
#include "token/chat_template.h"

#include <thread>

#include <gtest/gtest.h>

#include "base/mapped_file.h"

namespace tq {
namespace {

const std::string kFolder = std::string(TQ_TEST_DATA) + "/chat_templates/";

Json fixture(const std::string& path) {
  auto json = read_json_file(path);
  if (!json) ADD_FAILURE() << json.error().message;
  return json ? *json : Json();
}

// The request whose variables are those of the fixture.
ChatRequest request_of(Json variables, double now) {
  ChatRequest out;
  out.now = now;
  out.bos_token = "<s>";
  out.eos_token = "</s>";
  out.messages = variables["messages"];
  if (variables.contains("tools")) out.tools = variables["tools"];
  out.add_generation_prompt = variables.value("add_generation_prompt", true);
  for (const char* known : {"messages", "tools", "add_generation_prompt"}) variables.erase(known);
  out.extra = variables;
  return out;
}

Result<std::string> render(const std::string& source, const ChatRequest& request = {}, const ChatTemplateLimits& limits = {}) {
  TQ_ASSIGN(const ChatTemplate parsed, ChatTemplate::parse(source));
  return parsed.render(request, limits);
}

void expect_same(const Result<std::string>& got, const Json& expected, const std::string& what) {
  if (expected.contains("error")) {
    EXPECT_FALSE(got.has_value()) << what << "\nshould fail with " << expected["error"] << "\ngave " << (got ? *got : "");
    if (got) return;
    EXPECT_EQ(got.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(got.error().message.find('\n'), std::string::npos);
    EXPECT_TRUE(got.error().message.starts_with("chat template")) << got.error().message;
  } else if (!got) {
    ADD_FAILURE() << what << "\n" << got.error().message;
  } else {
    EXPECT_EQ(*got, expected["text"].get<std::string>()) << what;
  }
}

// TQ_CHAT_TEMPLATES names another folder of templates, with an expected.json that the oracle script wrote there.
void compare_conversations(const std::string& templates, const std::string& expected) {
  const Json all = fixture(expected);
  ASSERT_GT(all["renderings"].size(), 20u);
  for (const Json& one : all["renderings"]) {
    const std::string file = one["template"], name = one["name"];
    const auto source = read_text_file(templates + file, size_t{1} << 20);
    ASSERT_TRUE(source.has_value()) << source.error().message;
    expect_same(render(*source, request_of(all["conversations"][name], all["now"])), one, file + " with " + name);
  }
}

TEST(ChatTemplate, PublishedTemplatesRenderAsInTransformers) {
  compare_conversations(kFolder + "templates/", kFolder + "conversations.json");
}

TEST(ChatTemplate, OtherTemplatesRenderAsInTransformers) {
  const char* folder = std::getenv("TQ_CHAT_TEMPLATES");
  if (!folder) GTEST_SKIP() << "TQ_CHAT_TEMPLATES names no folder";
  compare_conversations(std::string(folder) + "/", std::string(folder) + "/expected.json");
}

TEST(ChatTemplate, EveryFeatureDoesWhatJinjaDoes) {
  const Json all = fixture(kFolder + "snippets.json");
  const ChatRequest request = request_of(all["variables"], all["now"]);
  ASSERT_GT(all["snippets"].size(), 150u);
  for (const Json& one : all["snippets"]) expect_same(render(one["source"], request), one, one["source"]);
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  const auto late = render("a\n{% if true %}\n{{ x.y }}\n{% endif %}");
  ASSERT_FALSE(late.has_value());
  EXPECT_EQ(late.error().message, "chat template, line 3: 'x' is undefined");
  const auto early = render("a\n\n{{ 1 + }}");
  ASSERT_FALSE(early.has_value());
  EXPECT_EQ(early.error().message, "chat template, line 3: unexpected '}}'");
  const auto raised = render("{{ raise_exception('no\nlines') }}");
  ASSERT_FALSE(raised.has_value());
  EXPECT_EQ(raised.error().message, "chat template, line 1: no lines");
}

std::string repeated(const std::string& part, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += part;
  return out;
}

TEST(ChatTemplate, HostileTemplatesEndInAnError) {
  const std::string loop = "{% for i in range(99999) %}", ns = "{% set ns = namespace(x=[], f=1) %}";
  const std::string sources[] = {
      loop + loop + loop + "x" + repeated("{% endfor %}", 3),
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}",
      ns + loop + "{% set ns.x = [ns.x] %}{% endfor %}",
      ns + loop + "{% set ns.x = [ns.x, ns.x].copy %}{% endfor %}",
      ns + "{% set ns.x = ns %}{{ ns }}",
      ns + "{% set ns.x = [1] %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
      ns + "{% set ns.x = 'ab' %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      "{{ 'x' * 9999999999 }}",
      "{{ 'x' * 9223372036854775807 }}",
      "{{ [1] * 9999999999 }}",
      "{{ 'a'.center(99999999999) }}",
      "{{ '%99999999d' % 1 }}",
      "{{ '{:999999999}'.format(1) }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ (-9223372036854775807 - 1) // -1 }}",
      "{{ (-9223372036854775807 - 1) | abs }}",
      "{{ 99999999999999999999 }}",
      "{{ 10 ** 400 }}",
      "{{ [1] | batch(99999999999, 0) | list }}",
      "{{ [1] | slice(99999999999) | list }}",
      "{{ 'a' | indent(99999999999) }}",
      "{{ " + repeated("(", 5000) + "1" + repeated(")", 5000) + " }}",
      "{{ " + repeated("not ", 5000) + "1 }}",
      "{{ " + repeated("-", 5000) + "1 }}",
      "{{ 1" + repeated("+1", 50000) + " }}",
      "{{ x" + repeated(".y", 50000) + " }}",
      repeated("{% if 1 %}", 5000),
      "{{ 'a' | " + repeated("upper | ", 5000) + "upper }}",
      "{% set " + repeated("(", 5000) + "a" + repeated(")", 5000) + " = 1 %}",
  };
  for (const std::string& source : sources) {
    const auto got = render(source, {}, {.steps = 1'000'000, .bytes = 64 << 20});
    EXPECT_FALSE(got.has_value()) << source.substr(0, 100);
    if (!got) EXPECT_LT(got.error().message.size(), 500u);
  }
}

TEST(ChatTemplate, MacrosBlocksAndExpressionsWithinEachOtherStayWithinTheStack) {
  const std::string blocks = repeated("{% if true %}", 50), ends = repeated("{% endif %}", 50);
  const std::string sum = "{{ m()" + repeated(" + ''", 280) + " }}";
  const auto got = render("{% macro m() %}" + blocks + sum + ends + "{% endmacro %}{{ m() }}");
  ASSERT_FALSE(got.has_value());
  EXPECT_EQ(got.error().message, "chat template, line 1: the template nests deeper than 500 levels");
}

TEST(ChatTemplate, EveryWayIntoAMacroCountsAsALevel) {
  const std::string loops = repeated("{% for i in [1] %}{% with %}", 20), ends = repeated("{% endwith %}{% endfor %}", 20);
  for (const std::string& again : {"{% set x %}{{ m() }}{% endset %}", "{% filter upper %}{{ m() }}{% endfilter %}",
                                   "{% call m() %}{% endcall %}", "{{ [{'a': (m(), 1)}] | map('upper') | list }}", "{{ '' ~ m(m()) }}"}) {
    const auto got = render("{% macro m() %}{{ caller is defined }}" + loops + again + ends + "{% endmacro %}{{ m() }}");
    ASSERT_FALSE(got.has_value()) << again;
    EXPECT_NE(got.error().message.find("deeper than 500 levels"), std::string::npos) << got.error().message;
  }
}

TEST(ChatTemplate, AMacroMayCallItselfAHundredTimes) {
  EXPECT_EQ(render("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}x{% endmacro %}{{ m(100) }}").value_or("failed"),
            repeated("x", 101));
}

// What jinja2 gives with jinja2.ext.loopcontrols.
TEST(ChatTemplate, BreakAndContinueLeaveWithAndTheElseOfALoop) {
  EXPECT_EQ(render("{% for i in range(5) %}{% with x = i %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}"
                   "{{ x }}{% endwith %}.{% endfor %}")
                .value_or("failed"),
            "0.2.");
  const std::string inner = "{% for i in range(3) %}{% for j in [] %}{% else %}{% if i == 1 %}",
                    rest = "{% endif %}{% endfor %}{{ i }}{% endfor %}";
  EXPECT_EQ(render(inner + "{% continue %}" + rest).value_or("failed"), "02");
  EXPECT_EQ(render(inner + "{% break %}" + rest).value_or("failed"), "0");
}

TEST(ChatTemplate, LongChainsOfValuesAreFreedWithoutRecursion) {
  const std::string loop = "{% for i in range(99999) %}", ns = "{% set ns = namespace(x=1) %}";
  for (const std::string& body : {"{% set ns.x = namespace(x=ns.x) %}", "{% for y in [ns.x] %}{% set ns.x = loop %}{% endfor %}",
                                  "{% macro m() %}{{ ns }}{% endmacro %}{% set ns.x = m %}"})
    EXPECT_EQ(render(ns + loop + body + "{% endfor %}done").value_or("failed"), "done");
}

TEST(ChatTemplate, BytesThatAreNoTextAreRefused) {
  EXPECT_FALSE(ChatTemplate::parse("a\xff").has_value());
  EXPECT_EQ(ChatTemplate::parse("{{ 1 }}")->source(), "{{ 1 }}");
}

TEST(ChatTemplate, OneTemplateServesManyThreads) {
  const auto parsed = ChatTemplate::parse("{% set x = 'ab' %}{% for i in range(100) %}{{ x ~ i }}{% endfor %}");
  ASSERT_TRUE(parsed.has_value());
  const std::string expected = parsed->render({}).value();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) EXPECT_EQ(parsed->render({}).value(), expected);
    });
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace tq
