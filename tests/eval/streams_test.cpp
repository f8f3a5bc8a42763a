#include "eval/streams.h"

#include <gtest/gtest.h>

#include "artifact/reader.h"
#include "kernels/cpu/cpu_backend.h"

namespace tq {
namespace {

TEST(Streams, AreAllAnsweredInTheMemoryThatIsNamed) {
  const Model model = read_artifact(TQ_TEST_DATA "/artifact/format-1/qwen3-5.5").value();
  ThreadPool threads(2);
  const auto backend = make_cpu_backend(threads, best_isa());
  Network network = Network::create(model, *backend).value();
  Listener listener;
  const Context context{.threads = threads, .listener = listener};
  const auto result = measure_streams(network, {.streams = 5, .prompt_tokens = 20, .answer_tokens = 6, .repetitions = 2}, context);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_GT(result->decode_tokens_per_second, 0);
  EXPECT_GE(result->last_first_token_seconds, result->first_token_seconds);
  EXPECT_EQ(result->kv_bytes, 5 * kv_page_bytes(model.spec, KvType::kF16));
  EXPECT_EQ(measure_streams(network, {.prompt_tokens = 64, .answer_tokens = 1}, context).error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace tq
