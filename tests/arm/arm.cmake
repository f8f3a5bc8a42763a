# arm_test: base, the grid's layout and the CPU kernels for aarch64, as one static program that needs no library of that machine.
set(arm_sources
  tests/arm/arm_test.cpp
  src/base/check.cpp src/base/cpu.cpp src/base/thread_pool.cpp
  src/tensor/dtype.cpp src/tensor/tensor_view.cpp
  src/codec/grid/grid.cpp src/codec/grid/hadamard.cpp src/codec/grid/layout.cpp
  src/kernels/cpu/plane/plane_generic.cpp src/kernels/cpu/plane/plane_input.cpp src/kernels/cpu/plane/plane_matrix.cpp
  src/kernels/cpu/plane/product_generic.cpp src/kernels/cpu/plane/product_neon.cpp
  src/kernels/cpu/tile/tile_generic.cpp src/kernels/cpu/tile/tile_linear.cpp src/kernels/cpu/tile/tile_neon.cpp)
list(TRANSFORM arm_sources PREPEND ${CMAKE_SOURCE_DIR}/)
# Libraries that are headers only, apart from the other headers of this machine.
set(arm_include ${CMAKE_BINARY_DIR}/arm_include)
file(MAKE_DIRECTORY ${arm_include})
foreach(library fmt tl nlohmann)
  find_path(arm_${library} ${library} REQUIRED)
  file(CREATE_LINK ${arm_${library}}/${library} ${arm_include}/${library} SYMBOLIC)
endforeach()
file(GLOB arm_headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/base/*.h ${CMAKE_SOURCE_DIR}/src/codec/grid/*.h ${CMAKE_SOURCE_DIR}/src/kernels/cpu/plane/*.h
  ${CMAKE_SOURCE_DIR}/src/kernels/cpu/simd/*.h ${CMAKE_SOURCE_DIR}/src/kernels/cpu/tile/*.h)
add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/arm_test
  COMMAND ${TQ_ARM_COMPILER} -std=c++20 -O2 -ffunction-sections -Wl,--gc-sections -Wall -Wextra -Wpedantic -Wshadow -Werror -fno-math-errno -ffp-contract=off -static -pthread
    -march=armv8.2-a+dotprod -DFMT_HEADER_ONLY -I${CMAKE_SOURCE_DIR}/src -isystem ${arm_include} -o ${CMAKE_BINARY_DIR}/arm_test ${arm_sources}
  DEPENDS ${arm_sources} ${arm_headers} VERBATIM)
add_custom_target(arm ALL DEPENDS ${CMAKE_BINARY_DIR}/arm_test)
add_test(NAME arm COMMAND ${TQ_ARM_EMULATOR} -cpu max ${CMAKE_BINARY_DIR}/arm_test)
