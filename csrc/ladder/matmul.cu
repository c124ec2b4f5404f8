// C = A B for A [n, k], B [k, m]: a block computes a 16 x 16 tile of C from tiles of A and B in shared
// memory, so each number is fetched from global memory once per tile and used 16 times.
// New to transpose.cu: a loop over tiles, with two barriers per turn. This is the loop of flash attention.
#include <cuda_runtime.h>

constexpr int TILE = 16;

__global__ void matmul_kernel(const float* A, const float* B, float* C, int n, int k, int m) {
  __shared__ float a[TILE][TILE + 1], b[TILE][TILE + 1];
  const int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * TILE + y, col = blockIdx.x * TILE + x;
  float sum = 0;
  // EXERCISE c.4 matmul in tiles
  for (int k0 = 0; k0 < k; k0 += TILE) {
    a[y][x] = row < n && k0 + x < k ? A[row * k + k0 + x] : 0.f;
    b[y][x] = k0 + y < k && col < m ? B[(k0 + y) * m + col] : 0.f;
    __syncthreads();  // the tiles are complete
    for (int i = 0; i < TILE; i++) sum += a[y][i] * b[i][x];
    __syncthreads();  // nobody still reads them
  }
  // END EXERCISE c.4
  if (row < n && col < m) C[row * m + col] = sum;
}

extern "C" int matmul(const float* A, const float* B, float* C, int n, int k, int m, cudaStream_t stream) {
  const dim3 grid((m + TILE - 1) / TILE, (n + TILE - 1) / TILE), threads(TILE, TILE);
  matmul_kernel<<<grid, threads, 0, stream>>>(A, B, C, n, k, m);
  return cudaGetLastError();
}
