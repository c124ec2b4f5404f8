// y = x^T for x of shape [rows, cols]: through a tile in shared memory, so that both the reads and the writes
// of global memory go along rows, 32 neighbours at a time.
// New to reduction.cu: what a warp does together. 32 threads that touch 32 neighbouring words cost four
// 32-byte sectors, 32 scattered words cost 32; 32 words in one bank of shared memory are served one by one.
#include <cuda_runtime.h>

constexpr int TILE = 32, ROWS_AT_ONCE = 8;  // a block of 32 x 8 threads moves a tile in four steps
#ifndef PAD
#define PAD 1                                  // compile with -DPAD=0 to see the conflicts
#endif

__global__ void transpose_kernel(const float* x, float* y, int rows, int cols) {
  __shared__ float tile[TILE][TILE + PAD];  // with a row of 33 words, a column of the tile meets 32 banks
  const int row0 = blockIdx.y * TILE, col0 = blockIdx.x * TILE;
  for (int i = threadIdx.y; i < TILE; i += ROWS_AT_ONCE) {
    int row = row0 + i, col = col0 + threadIdx.x;
    if (row < rows && col < cols) tile[i][threadIdx.x] = x[row * cols + col];
  }
  // EXERCISE c.3 transpose
  __syncthreads();
  for (int i = threadIdx.y; i < TILE; i += ROWS_AT_ONCE) {
    int row = col0 + i, col = row0 + threadIdx.x;  // in y, which is [cols, rows]
    if (row < cols && col < rows) y[row * rows + col] = tile[threadIdx.x][i];  // neighbours write neighbours
  }
  // END EXERCISE c.3
}

extern "C" int transpose(const float* x, float* y, int rows, int cols, cudaStream_t stream) {
  const dim3 grid((cols + TILE - 1) / TILE, (rows + TILE - 1) / TILE), threads(TILE, ROWS_AT_ONCE);
  transpose_kernel<<<grid, threads, 0, stream>>>(x, y, rows, cols);
  return cudaGetLastError();
}
