# Instruction sets of the plane kernels; included by src/kernels/CMakeLists.txt.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_property(SOURCE cpu/plane/product_avx2.cpp APPEND PROPERTY COMPILE_OPTIONS -mavx2 -mfma)
  set_property(SOURCE cpu/plane/product_avx512.cpp APPEND PROPERTY COMPILE_OPTIONS
    -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mprefer-vector-width=512)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set_property(SOURCE cpu/plane/product_neon.cpp APPEND PROPERTY COMPILE_OPTIONS -march=armv8.2-a+dotprod)
endif()
