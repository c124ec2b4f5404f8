// One function of csrc/flash/tensor_core.cuh per kernel, each lane's registers given and taken:
// test_csrc_tensor_core.py holds them against the layouts that are published, on the emulator and on a GPU.
#include <cuda_runtime.h>
#include "tensor_core.cuh"

// c += a b: a [32][4], b [32][2], c [32][4]. `lanes`: how many lanes take part.
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, float* c, int lanes) {
  const int lane = threadIdx.x;
  uint32_t A[4];
  float C[4];
  for (int i = 0; i < 4; i++) A[i] = a[4 * lane + i], C[i] = c[4 * lane + i];
  if (lane < lanes) mma_m16n8k16(C, A, b[2 * lane], b[2 * lane + 1]);
  for (int i = 0; i < 4; i++) c[4 * lane + i] = C[i];
}

// Four 8 x 8 tiles, 32 rows of 16 bytes, through shared memory into the registers r [32][4].
__global__ void ldmatrix_kernel(const bf16* tiles, uint32_t* r, bool transposed, int fault) {
  __shared__ __align__(16) bf16 rows[33][8];
  const int lane = threadIdx.x;
  uint32_t x[4];
  for (int i = 0; i < 8; i++) rows[lane][i] = tiles[8 * lane + i];
  if (lane < 8) rows[32][lane] = tiles[lane];
  if (fault != 1) __syncwarp();  // without it a lane may receive a row that its owner has not yet written
  const void* row = fault == 2 ? (const void*)&rows[lane][1] : fault == 3 ? (const void*)tiles : rows[lane];
  if (transposed) ldmatrix_x4_trans(x, row);
  else ldmatrix_x4(x, row);
  for (int i = 0; i < 4; i++) r[4 * lane + i] = x[i];
}

// Each thread copies three pieces of 16 bytes in three groups, waits until at most `newest` are under way,
// and hands back the first number of piece `look`: from x if it has arrived, else -1 from before.
__global__ void copy_kernel(const float* x, float* y, int newest, int look, bool inside, int fault) {
  __shared__ __align__(16) float pieces[3][32][4];
  const int lane = threadIdx.x;
  for (int group = 0; group < 3; group++)
    for (int i = 0; i < 4; i++) pieces[group][lane][i] = -1;
  for (int group = 0; group < 3; group++) {
    cp_async_16(fault == 1 ? y : pieces[group][lane], x + (group * 32 + lane) * 4 + (fault == 2), inside);
    cp_async_commit();
  }
  if (newest == 0) cp_async_wait<0>();
  if (newest == 1) cp_async_wait<1>();
  if (newest == 2) cp_async_wait<2>();
  if (fault == 3) __syncwarp();
  y[lane] = pieces[look][fault >= 3 ? 31 - lane : lane][0];  // 4: without a meeting
  if (fault != 5) cp_async_wait<0>();
}

__global__ void round_kernel(const float* x, bf16* y, float* back, int n) {
  const int i = blockDim.x * blockIdx.x + threadIdx.x;
  if (i >= n) return;
  y[i] = __float2bfloat16(x[i]);
  back[i] = __bfloat162float(y[i]);
}

extern "C" int mma(const uint32_t* a, const uint32_t* b, float* c, int threads, int lanes,
                   cudaStream_t stream) {
  mma_kernel<<<1, threads, 0, stream>>>(a, b, c, lanes);
  return cudaGetLastError();
}
extern "C" int ldmatrix(const bf16* tiles, uint32_t* r, bool transposed, int fault, cudaStream_t stream) {
  ldmatrix_kernel<<<1, 32, 0, stream>>>(tiles, r, transposed, fault);
  return cudaGetLastError();
}
extern "C" int copies(const float* x, float* y, int newest, int look, bool inside, int fault,
                      cudaStream_t stream) {
  copy_kernel<<<1, 32, 0, stream>>>(x, y, newest, look, inside, fault);
  return cudaGetLastError();
}
extern "C" int round_all(const float* x, bf16* y, float* back, int n, cudaStream_t stream) {
  round_kernel<<<(n + 255) / 256, 256, 0, stream>>>(x, y, back, n);
  return cudaGetLastError();
}
