// Where swizzled_tiles.cuh puts each piece of 8 numbers of a tile of 64 rows: places [64][D / 8], in numbers.
#include <cuda_runtime.h>
#include "swizzled_tiles.cuh"

__global__ void places_kernel(int* places) {
  bf16* tile = nullptr;
  const int r = threadIdx.x;
  for (int c = 0; c < D / 8; c++) places[r * (D / 8) + c] = int(piece(tile, r, c) - tile);
}
extern "C" int places(int* places, cudaStream_t stream) {
  places_kernel<<<1, 64, 0, stream>>>(places);
  return cudaGetLastError();
}
