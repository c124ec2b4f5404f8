// Attention the usual way: three kernels, and the T x T scores go to slow global memory and back between
// them. What flash_attention.cu is compared with. Q, O are [B*H, T, D], K, V are [B*H/group, T, D], S is
// [B*H, T, T], all fp32 and contiguous. Runs through kernels.py; to compile it alone:
//     nvcc -shared -Xcompiler -fPIC -arch=sm_80 attention_naive.cu -o attention_naive.so
#include <cuda_runtime.h>
#include <math.h>

constexpr int TILE = 32;  // a block of 32 x 32 threads computes a 32 x 32 tile of its product
constexpr unsigned ALL_LANES = 0xffffffff;

// S = scale * Q K^T, with -infinity where a token would see the future.
__global__ void scores_kernel(const float* Q, const float* K, float* S, int T, int D, int group,
                              float scale, bool causal) {
  __shared__ float q[TILE][TILE + 1], k[TILE][TILE + 1];  // + 1: rows start in different banks
  const int x = threadIdx.x, y = threadIdx.y, head = blockIdx.z;
  const int row = blockIdx.y * TILE + y, col = blockIdx.x * TILE + x, k_row = blockIdx.x * TILE + y;
  Q += (size_t)head * T * D;
  K += (size_t)(head / group) * T * D;
  S += (size_t)head * T * T;
  float sum = 0;
  for (int d0 = 0; d0 < D; d0 += TILE) {
    q[y][x] = row < T && d0 + x < D ? Q[row * D + d0 + x] : 0.f;
    k[y][x] = k_row < T && d0 + x < D ? K[k_row * D + d0 + x] : 0.f;
    __syncthreads();  // the tiles are complete
    for (int d = 0; d < TILE; d++) sum += q[y][d] * k[x][d];
    __syncthreads();  // everyone has read them
  }
  if (row < T && col < T) S[(size_t)row * T + col] = causal && col > row ? -INFINITY : sum * scale;
}

// P = softmax of each row of S, in place: a warp owns a row, each lane every 32nd element of it.
__global__ void softmax_kernel(float* S, int rows, int T) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
  if (row >= rows) return;  // the whole warp leaves together
  S += (size_t)row * T;
  float m = -INFINITY, l = 0;  // running maximum, running sum of exp(s - m)
  for (int j = lane; j < T; j += 32) {
    float s = S[j], top = fmaxf(m, s);
    if (top == -INFINITY) continue;  // nothing but masked scores so far
    l = l * __expf(m - top) + __expf(s - top);
    m = top;
  }
  for (int bit = 16; bit > 0; bit /= 2) {  // merge the 32 pairs (m, l): a butterfly
    float m_there = __shfl_xor_sync(ALL_LANES, m, bit), l_there = __shfl_xor_sync(ALL_LANES, l, bit);
    float top = fmaxf(m, m_there);
    if (top > -INFINITY) l = l * __expf(m - top) + l_there * __expf(m_there - top);
    m = top;
  }
  for (int j = lane; j < T; j += 32) S[j] = __expf(S[j] - m) / l;
}

// O = P V.
__global__ void output_kernel(const float* P, const float* V, float* O, int T, int D, int group) {
  __shared__ float p[TILE][TILE + 1], v[TILE][TILE + 1];
  const int x = threadIdx.x, y = threadIdx.y, head = blockIdx.z;
  const int row = blockIdx.y * TILE + y, d = blockIdx.x * TILE + x;
  P += (size_t)head * T * T;
  V += (size_t)(head / group) * T * D;
  O += (size_t)head * T * D;
  float sum = 0;
  for (int j0 = 0; j0 < T; j0 += TILE) {
    p[y][x] = row < T && j0 + x < T ? P[(size_t)row * T + j0 + x] : 0.f;
    v[y][x] = j0 + y < T && d < D ? V[(j0 + y) * D + d] : 0.f;
    __syncthreads();
    for (int j = 0; j < TILE; j++) sum += p[y][j] * v[j][x];
    __syncthreads();
  }
  if (row < T && d < D) O[row * D + d] = sum;
}

extern "C" int naive_forward(const float* Q, const float* K, const float* V, float* S, float* O, int heads,
                             int T, int D, int group, float scale, bool causal, cudaStream_t stream) {
  const unsigned tiles = (T + TILE - 1) / TILE, wide = (D + TILE - 1) / TILE;
  const dim3 threads(TILE, TILE), warps(32, 4);
  scores_kernel<<<dim3(tiles, tiles, heads), threads, 0, stream>>>(Q, K, S, T, D, group, scale, causal);
  softmax_kernel<<<(heads * T + 3) / 4, warps, 0, stream>>>(S, heads * T, T);
  output_kernel<<<dim3(wide, tiles, heads), threads, 0, stream>>>(S, V, O, T, D, group);
  return cudaGetLastError();
}
