# What the tests of all rooms have compiled once, before their first line; the rooms too with TQ_PRECOMPILED_HEADERS. Without it the rooms
# are compiled from nothing but what they include: of headers that are missing, only such a build tells.
set(tq_precompiled <algorithm> <chrono> <cstring> <filesystem> <functional> <map> <memory> <numeric> <optional> <span> <string> <string_view>
  <unordered_map> <utility> <variant> <vector> <fmt/format.h> <nlohmann/json.hpp> <tl/expected.hpp>)

# The rooms that a fuzz target runs; they alone carry its coverage.
set(tq_fuzzed_rooms base tensor io codec token model artifact convert eval)

# A source with options of its own (an instruction set, no fused products) gets the headers compiled with them.
function(tq_leave_out_special target)
  get_target_property(sources ${target} SOURCES)
  foreach(source ${sources})
    get_property(options SOURCE ${source} PROPERTY COMPILE_OPTIONS)
    if(options)
      set_property(SOURCE ${source} PROPERTY SKIP_PRECOMPILE_HEADERS ON)
    endif()
  endforeach()
endfunction()

# tq_precompile(target OWNER HEADERS…): the headers are compiled in the target OWNER, for all targets with its flags.
function(tq_precompile target owner)
  if(target STREQUAL owner)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  else()
    target_precompile_headers(${target} REUSE_FROM ${owner})
  endif()
  cmake_language(EVAL CODE "cmake_language(DEFER CALL tq_leave_out_special ${target})")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")  # no time of day in it: ccache compares contents
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-Xclang -fno-pch-timestamp>")
  endif()
endfunction()

# Coverage is a flag that precompiled headers must share.
function(tq_precompile_room target name)
  if(name IN_LIST tq_fuzzed_rooms)
    tq_precompile(${target} tq_base ${tq_precompiled})
  else()
    tq_precompile(${target} tq_kernels ${tq_precompiled})
  endif()
endfunction()

# tq_room(name LIBRARIES…): the static library tq_<name> of src/<name>/**.cpp, and its tests tests/<name>/*_test.cpp as test_<name>.
function(tq_room name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  add_library(tq_${name} STATIC ${sources})
  target_include_directories(tq_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/include)
  target_link_libraries(tq_${name} PUBLIC ${ARGN})
  if(TQ_PRECOMPILED_HEADERS)
    tq_precompile_room(tq_${name} ${name})
  endif()
  if(TQ_FUZZ AND name IN_LIST tq_fuzzed_rooms)
    target_compile_options(tq_${name} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  tq_tests(${name})
endfunction()

# Under sanitizers the tests' own files are not optimized (the rooms are): compiling them so takes a quarter of the time.
function(tq_test_options target)
  if(TQ_SANITIZE)
    target_compile_options(${target} PRIVATE -O0)
  endif()
endfunction()

# The owner of the tests' precompiled headers: an empty file, so that one room's tests are built without another's.
function(tq_test_headers)
  if(NOT TARGET test_headers)
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/test_headers.cpp CONTENT "")
    add_library(test_headers OBJECT ${CMAKE_BINARY_DIR}/test_headers.cpp)
    target_link_libraries(test_headers PRIVATE tq_base GTest::gmock)
    tq_test_options(test_headers)
    tq_precompile(test_headers test_headers ${tq_precompiled} <gmock/gmock.h> <gtest/gtest.h>)
  endif()
endfunction()

function(tq_tests name)
  file(GLOB_RECURSE tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${name}/*_test.cpp)
  if(TQ_TESTS AND tests)
    tq_test_headers()
    add_executable(test_${name} ${tests})
    target_include_directories(test_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
    target_compile_definitions(test_${name} PRIVATE TQ_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/data")
    target_link_libraries(test_${name} PRIVATE tq_${name} GTest::gmock GTest::gtest_main)
    tq_test_options(test_${name})
    tq_precompile(test_${name} test_headers)
    gtest_discover_tests(test_${name} DISCOVERY_TIMEOUT 60)
  endif()
endfunction()
