# Tests beside the rooms': the project's rules, the program from the outside, the ARM kernels under an emulator.
# The label "long" marks what the sanitizer build leaves out.
foreach(check includes format text)
  add_test(NAME check_${check} COMMAND ${CMAKE_SOURCE_DIR}/scripts/check_${check})
  set_tests_properties(check_${check} PROPERTIES LABELS long)
endforeach()
find_program(TQ_CLANG_FORMAT clang-format-16)
if(NOT TQ_CLANG_FORMAT)
  set_tests_properties(check_format PROPERTIES DISABLED ON)
endif()

# Each file of tests/cli/test_*.py is a test of the program.
find_package(Python3 COMPONENTS Interpreter REQUIRED)
file(GLOB cli_tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/cli/test_*.py)
foreach(file ${cli_tests})
  get_filename_component(name ${file} NAME_WE)
  add_test(NAME cli_${name} COMMAND ${Python3_EXECUTABLE} -m unittest -v ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}/tests/cli)
  set_tests_properties(cli_${name} PROPERTIES LABELS long TIMEOUT 300 ENVIRONMENT "TQ=$<TARGET_FILE:tq>;PYTHONDONTWRITEBYTECODE=1")
endforeach()

find_program(TQ_ARM_COMPILER aarch64-linux-gnu-g++)
find_program(TQ_ARM_EMULATOR NAMES qemu-aarch64 qemu-aarch64-static)
if(TQ_ARM_COMPILER AND TQ_ARM_EMULATOR AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NOT TQ_SANITIZE)
  include(${CMAKE_SOURCE_DIR}/tests/arm/arm.cmake)
endif()
