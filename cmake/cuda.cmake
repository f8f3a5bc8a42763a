# CUDA for TQ_CUDA=ON: the language, the toolkit's libraries, and what the device code is compiled with. Its headers are the toolkit's and
# our own alone.
find_program(nvcc nvcc HINTS /usr/local/cuda/bin REQUIRED)
set(CMAKE_CUDA_COMPILER ${nvcc})
set(CMAKE_CUDA_ARCHITECTURES ${TQ_CUDA_ARCHITECTURES})
enable_language(CUDA)
# CMake 3.25 does not know nvcc 13's flag.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
find_package(CUDAToolkit REQUIRED)

# tq_cuda(target): its CUDA sources.
function(tq_cuda target)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-O3;-Xcompiler=-Wall,-Wextra,-Werror>")
  target_link_libraries(${target} PUBLIC CUDA::cudart_static CUDA::cublas CUDA::cusolver)
endfunction()
