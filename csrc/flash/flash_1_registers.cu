// Rung 1: register tiles, fp32. In rung 0 (../flash_attention.cu) a thread computes one score from 2 D
// numbers that it reads from shared memory: two reads per multiply-add. Here a thread computes R x C scores,
// so R + C reads of 16 bytes give 4 R C multiply-adds: with 8 x 8, sixteen for each read. The same for P V.
// Nothing else is new. Q, O are [B*H, T, D]; K, V are [B*H/group, T, D]; L, the log-sum-exp of each row, is
// [B*H, T]. Forward only.
//     nvcc -std=c++17 -arch=sm_80 -shared -Xcompiler -fPIC -DHEAD_WIDTH=64 flash_1_registers.cu -o rung.so
#include <cuda_runtime.h>
#include <math.h>

#ifndef HEAD_WIDTH
#define HEAD_WIDTH 64
#endif
constexpr int D = HEAD_WIDTH;
static_assert(D % 32 == 0 && D <= 128, "the head width is 32, 64, 96 or 128");

// A warp is 4 x 8 threads. Thread (y, x) owns the rows y, y + 4, y + 8, ... of the warp's rows; the columns
// x, x + 8, ... of S; and the columns 4 x .. 4 x + 3, 32 + 4 x .. 32 + 4 x + 3, ... of O.
constexpr int WARPS = 4, THREADS = 32 * WARPS;
constexpr int R = D > 64 ? 4 : 8;           // rows of a thread
constexpr int Br = WARPS * 4 * R, Bc = 64;  // rows of Q, and of K and V, in a tile
constexpr int C = Bc / 8;                   // columns of S of a thread
constexpr int W = D / 32;                   // groups of 4 columns of O of a thread
// Rows are padded so that the 16-byte pieces which 8 threads read at once lie in 32 different banks.
constexpr int STRIDE = D + 4, P_STRIDE = Bc + 8;
constexpr int SHARED_BYTES = ((Br + Bc) * STRIDE + Br * P_STRIDE) * sizeof(float);
constexpr unsigned ALL_LANES = 0xffffffff;

__device__ inline float4& quad(float* at) { return *reinterpret_cast<float4*>(at); }
__device__ inline float4 quad(const float* at) { return *reinterpret_cast<const float4*>(at); }

// Rows first, first + 1, ... of a [T, D] matrix into shared memory, 16 bytes at a time; zeros past T.
template <int ROWS>
__device__ void load_tile(float* tile, const float* matrix, int first, int T) {
#pragma unroll
  for (int i = 0; i < ROWS * D / 4; i += THREADS) {
    const int r = (i + threadIdx.x) / (D / 4), d = (i + threadIdx.x) % (D / 4) * 4;
    quad(tile + r * STRIDE + d) =
        first + r < T ? quad(matrix + (size_t)(first + r) * D + d) : make_float4(0.f, 0.f, 0.f, 0.f);
  }
}

// The largest, or the sum, of the values of the 8 threads of a row: the lanes with the same y (below).
__device__ inline float row_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 2));
  v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 8));
  return fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 16));
}
__device__ inline float row_sum(float v) {
  v += __shfl_xor_sync(ALL_LANES, v, 2);
  v += __shfl_xor_sync(ALL_LANES, v, 8);
  return v + __shfl_xor_sync(ALL_LANES, v, 16);
}

__global__ void __launch_bounds__(THREADS, 2)
    flash_forward_kernel(const float* q, const float* k, const float* v, float* o, float* lse, int T,
                         int group, float scale, bool causal) {
  extern __shared__ float smem[];
  float *Q = smem, *KV = Q + Br * STRIDE, *P = KV + Bc * STRIDE;  // V takes the place of K
  // Lanes n and n + 1 share x, lanes n and n + 2 share y: shared memory is said to serve such pairs of
  // 16-byte reads at once. So y is the bits 0 and 2 of the lane, and x the bits 1, 3 and 4.
  const int lane = threadIdx.x % 32, head = blockIdx.y;
  const int y = lane % 2 + lane / 4 % 2 * 2, x = lane / 2 % 2 + lane / 8 * 2;
  const int q0 = (gridDim.x - 1 - blockIdx.x) * Br;  // causal: the longest rows begin first
  const int first = threadIdx.x / 32 * 4 * R + y;    // my rows of the tile: first + 4 i
  q += (size_t)head * T * D;
  o += (size_t)head * T * D;
  lse += (size_t)head * T;
  k += (size_t)(head / group) * T * D;
  v += (size_t)(head / group) * T * D;

  load_tile<Br>(Q, q, q0, T);
  float O[R][W][4] = {}, m[R], l[R] = {};
  for (float& largest : m) largest = -INFINITY;
  const int end = causal ? min(T, q0 + Br) : T;
  for (int k0 = 0; k0 < end; k0 += Bc) {
    __syncthreads();  // everyone is done with the last V
    load_tile<Bc>(KV, k, k0, T);
    __syncthreads();  // K is complete
    float S[R][C] = {};
#pragma unroll 2
    for (int d = 0; d < D; d += 4) {
      float4 key[C];
#pragma unroll
      for (int j = 0; j < C; j++) key[j] = quad((const float*)KV + (x + 8 * j) * STRIDE + d);
#pragma unroll
      for (int i = 0; i < R; i++) {
        const float4 query = quad((const float*)Q + (first + 4 * i) * STRIDE + d);
#pragma unroll
        for (int j = 0; j < C; j++) {
          S[i][j] += query.x * key[j].x;
          S[i][j] += query.y * key[j].y;
          S[i][j] += query.z * key[j].z;
          S[i][j] += query.w * key[j].w;
        }
      }
    }
    __syncthreads();  // everyone is done with K
    load_tile<Bc>(KV, v, k0, T);

#pragma unroll
    for (int i = 0; i < R; i++) {  // online softmax of my part of row i, as in rung 0
      const int row = q0 + first + 4 * i;
      float m_new = m[i], sum = 0;
#pragma unroll
      for (int j = 0; j < C; j++) {
        const int col = k0 + x + 8 * j;
        const bool keep = col < T && (!causal || col <= row);
        S[i][j] = keep ? scale * S[i][j] : -INFINITY;
        m_new = fmaxf(m_new, S[i][j]);
      }
      m_new = row_max(m_new);
      const float alpha = __expf(m[i] - m_new);
#pragma unroll
      for (int j = 0; j < C; j++) {
        const float p = __expf(S[i][j] - m_new);
        P[(first + 4 * i) * P_STRIDE + x + 8 * j] = p;
        sum += p;
      }
      l[i] = l[i] * alpha + row_sum(sum);
      m[i] = m_new;
#pragma unroll
      for (int w = 0; w < W; w++)
        for (float& value : O[i][w]) value *= alpha;
    }
    __syncthreads();  // V is complete, and P, of which a warp reads only its own rows

#pragma unroll 2
    for (int j = 0; j < Bc; j += 4) {
      float p[R][4];
#pragma unroll
      for (int i = 0; i < R; i++) {
        const float4 four = quad((const float*)P + (first + 4 * i) * P_STRIDE + j);
        p[i][0] = four.x, p[i][1] = four.y, p[i][2] = four.z, p[i][3] = four.w;
      }
#pragma unroll
      for (int jj = 0; jj < 4; jj++)
#pragma unroll
        for (int w = 0; w < W; w++) {
          const float4 value = quad((const float*)KV + (j + jj) * STRIDE + 32 * w + 4 * x);
#pragma unroll
          for (int i = 0; i < R; i++) {
            O[i][w][0] += p[i][jj] * value.x;
            O[i][w][1] += p[i][jj] * value.y;
            O[i][w][2] += p[i][jj] * value.z;
            O[i][w][3] += p[i][jj] * value.w;
          }
        }
    }
  }
#pragma unroll
  for (int i = 0; i < R; i++) {
    const int row = q0 + first + 4 * i;
    const float inverse = 1.f / l[i];
    if (row >= T) continue;
#pragma unroll
    for (int w = 0; w < W; w++)
      quad(o + (size_t)row * D + 32 * w + 4 * x) =
          make_float4(O[i][w][0] * inverse, O[i][w][1] * inverse, O[i][w][2] * inverse, O[i][w][3] * inverse);
    if (x == 0) lse[row] = m[i] + logf(l[i]);
  }
}

extern "C" int flash_forward(const float* q, const float* k, const float* v, float* o, float* lse, int heads,
                             int T, int group, float scale, bool causal, cudaStream_t stream) {
  const dim3 grid((T + Br - 1) / Br, heads);
  cudaFuncSetAttribute(flash_forward_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
  flash_forward_kernel<<<grid, THREADS, SHARED_BYTES, stream>>>(q, k, v, o, lse, T, group, scale, causal);
  return cudaGetLastError();
}
