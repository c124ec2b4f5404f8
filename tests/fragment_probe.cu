// What as_fragment_a of fragments.cuh makes of numbers of any size: packed [lane][register], as whole numbers.
#include <cuda_runtime.h>
#include "fragments.cuh"

__global__ void fragments_kernel(const float* left, const float* right, int* packed) {
  const int lane = threadIdx.x;
  float l[4], r[4];
  for (int i = 0; i < 4; i++) l[i] = left[4 * lane + i], r[i] = right[4 * lane + i];
  uint32_t a[4];
  as_fragment_a(a, l, r);
  for (int i = 0; i < 4; i++) packed[4 * lane + i] = int(a[i]);
}
extern "C" int fragments(const float* left, const float* right, int* packed, cudaStream_t stream) {
  fragments_kernel<<<1, 32, 0, stream>>>(left, right, packed);
  return cudaGetLastError();
}
