# Instruction sets of the kernels of planes, tiles and digits; included by src/kernels/CMakeLists.txt.
set(plane cpu/plane/plane_generic.cpp cpu/plane/plane_avx2.cpp cpu/plane/plane_avx512.cpp)
set_property(SOURCE ${plane} APPEND PROPERTY COMPILE_OPTIONS -ffp-contract=off -Wno-psabi)  # the same bits everywhere
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_property(SOURCE cpu/plane/product_avx2.cpp cpu/tile/tile_avx2.cpp APPEND PROPERTY COMPILE_OPTIONS -mavx2 -mfma)
  set_property(SOURCE cpu/plane/plane_avx2.cpp APPEND PROPERTY COMPILE_OPTIONS -mavx2 -mfma -mf16c)
  set_property(SOURCE cpu/plane/product_avx512.cpp cpu/plane/plane_avx512.cpp cpu/tile/tile_avx512.cpp APPEND PROPERTY COMPILE_OPTIONS
    -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c -mprefer-vector-width=512)
  set_property(SOURCE cpu/tile/tile_amx.cpp cpu/digits/digit_amx.cpp APPEND PROPERTY COMPILE_OPTIONS
    -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mamx-tile -mamx-int8 -mprefer-vector-width=512)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # g++ 12 warns of its own intrinsics
    set_property(SOURCE cpu/tile/tile_avx512.cpp cpu/tile/tile_amx.cpp cpu/digits/digit_amx.cpp APPEND PROPERTY COMPILE_OPTIONS -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set_property(SOURCE cpu/plane/product_neon.cpp cpu/tile/tile_neon.cpp APPEND PROPERTY COMPILE_OPTIONS -march=armv8.2-a+dotprod)
endif()
