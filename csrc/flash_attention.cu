// FlashAttention, forward and backward, fp32 (Dao et al. 2022, arXiv 2205.14135; the loop order of
// FlashAttention-2, arXiv 2307.08691). The scores live in shared memory, one tile at a time: no T x T matrix
// ever reaches global memory. Q, O, dQ, dO are [B*H, T, D]; K, V, dK, dV are [B*H/group, T, D]: `group` heads of
// queries share one of keys; L, the log-sum-exp of each row of scores, and delta are [B*H, T]. All contiguous.
// One library is compiled per head width. Runs through kernels.py; compile alone with nvcc -shared
// -Xcompiler -fPIC -arch=sm_80 -DHEAD_WIDTH=64.
#include <cuda_runtime.h>
#include <math.h>

#ifndef HEAD_WIDTH
#define HEAD_WIDTH 64
#endif
#ifndef QUERY_TILE
#define QUERY_TILE (HEAD_WIDTH > 64 ? 32 : 64)
#endif
constexpr int D = HEAD_WIDTH;
static_assert(D % 8 == 0 && 16 <= D && D <= 128, "the head width is a multiple of 8 from 16 to 128");

// Tiles of Br rows of Q and Bc rows of K and V, as wide as 48 KB of shared memory allows.
constexpr int Br = QUERY_TILE, Bc = D > 64 ? 16 : 32;       // forward
constexpr int LANES = 4;                                    // neighbouring threads that share one row
constexpr int THREADS = Br * LANES;
constexpr int B = D > 64 ? 16 : 32;                         // backward: Br = Bc = B
constexpr int B_LANES = 128 / B, B_THREADS = 128;
// A row of P is LANES words longer than Bc: then the 8 rows x 4 columns that a warp writes lie in 32 different banks.
constexpr unsigned ALL_LANES = 0xffffffff;

// The largest, or the sum, of the values of the LANES threads of a row. They are neighbours in a warp, so they
// exchange registers by shuffles: no shared memory, no barrier.
__device__ inline float row_max(float x) {
  for (int bit = LANES / 2; bit > 0; bit /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, bit));
  return x;
}
__device__ inline float row_sum(float x) {
  for (int bit = LANES / 2; bit > 0; bit /= 2) x += __shfl_xor_sync(ALL_LANES, x, bit);
  return x;
}

// Copy rows first, first + 1, ... of a [T, D] matrix into shared memory, all threads together, neighbouring
// threads neighbouring addresses. Rows past the end become zeros. A row is one word longer than D, so that the
// same column of different rows lies in different banks.
template <int ROWS>
__device__ void load_tile(float (&tile)[ROWS][D + 1], const float* matrix, int first, int T) {
  for (int i = threadIdx.x; i < ROWS * D; i += blockDim.x) {
    int r = i / D, d = i % D;
    tile[r][d] = first + r < T ? matrix[(size_t)(first + r) * D + d] : 0.f;
  }
}

__device__ inline float dot(const float* a, const float* b) {
  float sum = 0;
  for (int d = 0; d < D; d++) sum += a[d] * b[d];
  return sum;
}

// A block owns Br rows of Q. It walks over all tiles of K and V, and keeps for each row the running maximum m,
// the running sum l of exp(s - m), and the unnormalised output, spread over the row's LANES threads.
__global__ void flash_forward_kernel(const float* q, const float* k, const float* v, float* o, float* lse, int T,
                                     int group, float scale, bool causal) {
  __shared__ float Q[Br][D + 1], K[Bc][D + 1], V[Bc][D + 1], P[Br][Bc + LANES];
  const int r = threadIdx.x / LANES, c = threadIdx.x % LANES;  // my row of the tile, my place in it
  const int q0 = blockIdx.x * Br, row = q0 + r, head = blockIdx.y;
  q += (size_t)head * T * D;
  o += (size_t)head * T * D;
  lse += (size_t)head * T;
  k += (size_t)(head / group) * T * D;
  v += (size_t)(head / group) * T * D;

  load_tile(Q, q, q0, T);
  float m = -INFINITY, l = 0, O[D / LANES] = {};               // O holds columns c, c + LANES, c + 2 LANES, ...
  const int end = causal ? min(T, q0 + Br) : T;                // no row of this tile sees a key past `end`
  for (int k0 = 0; k0 < end; k0 += Bc) {
    __syncthreads();                                           // everyone is done with the last K and V
    load_tile(K, k, k0, T);
    load_tile(V, v, k0, T);
    __syncthreads();                                           // the tiles are complete

    // EXERCISE c.6 online softmax of a tile
    float s[Bc / LANES], m_new = m;
#pragma unroll
    for (int j = 0; j < Bc / LANES; j++) {
      int col = k0 + c + LANES * j;
      bool keep = col < T && (!causal || col <= row);
      s[j] = keep ? scale * dot(Q[r], K[c + LANES * j]) : -INFINITY;
      m_new = fmaxf(m_new, s[j]);
    }
    m_new = row_max(m_new);                                    // key 0 is never masked, so m_new is finite
    float alpha = __expf(m - m_new), sum = 0;                  // alpha rescales what was summed under the old m
#pragma unroll
    for (int j = 0; j < Bc / LANES; j++) {
      float p = __expf(s[j] - m_new);
      P[r][c + LANES * j] = p;
      sum += p;
    }
    l = l * alpha + row_sum(sum);
    m = m_new;
    __syncwarp();                                              // a row of P is read only by the warp that wrote it
#pragma unroll
    for (int i = 0; i < D / LANES; i++) {
      float pv = 0;
      for (int j = 0; j < Bc; j++) pv += P[r][j] * V[j][c + LANES * i];
      O[i] = O[i] * alpha + pv;
    }
    // END EXERCISE c.6
  }
  if (row < T) {
#pragma unroll
    for (int i = 0; i < D / LANES; i++) o[(size_t)row * D + c + LANES * i] = O[i] / l;
    if (c == 0) lse[row] = m + logf(l);
  }
}

// delta[row] = sum over d of dO[row][d] * O[row][d]: a warp owns a row.
__global__ void flash_delta_kernel(const float* o, const float* d_o, float* delta, int rows) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
  if (row >= rows) return;                                     // the whole warp leaves together
  float sum = 0;
  for (int d = lane; d < D; d += 32) sum += o[(size_t)row * D + d] * d_o[(size_t)row * D + d];
  for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, bit);
  if (lane == 0) delta[row] = sum;
}

// A block owns B rows of K and V. It walks over all tiles of Q of all heads that use them, computes P again from
// L, keeps dK and dV in registers, and adds its share of dQ in global memory, where other blocks add theirs.
__global__ void flash_backward_kernel(const float* q, const float* k, const float* v, const float* d_o, const float* lse,
                                      const float* delta, float* dq, float* dk, float* dv, int T, int group, float scale,
                                      bool causal) {
  __shared__ float Q[B][D + 1], dO[B][D + 1], K[B][D + 1], V[B][D + 1], P[B][B + B_LANES],
      dS[B][B + B_LANES];
  const int r = threadIdx.x / B_LANES, c = threadIdx.x % B_LANES, k0 = blockIdx.x * B, kv_head = blockIdx.y;
  const size_t kv = (size_t)kv_head * T * D;

  load_tile(K, k + kv, k0, T);
  load_tile(V, v + kv, k0, T);
  float dK[D / B_LANES] = {}, dV[D / B_LANES] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
    const size_t at = (size_t)head * T * D;
    for (int q0 = causal ? k0 : 0; q0 < T; q0 += B) {          // queries before k0 do not see these keys
      __syncthreads();                                         // everyone is done with the last Q, dO, P, dS
      load_tile(Q, q + at, q0, T);
      load_tile(dO, d_o + at, q0, T);
      __syncthreads();                                         // the tiles are complete

      const int row = q0 + r;                                  // in this part r is a row of queries
      // EXERCISE c.7 the gradient of a tile of scores
      const float L = row < T ? lse[(size_t)head * T + row] : 0.f;
      const float Delta = row < T ? delta[(size_t)head * T + row] : 0.f;
      for (int j = c; j < B; j += B_LANES) {
        int col = k0 + j;
        bool keep = row < T && col < T && (!causal || col <= row);
        float p = keep ? __expf(scale * dot(Q[r], K[j]) - L) : 0.f;
        P[r][j] = p;
        dS[r][j] = p * (dot(dO[r], V[j]) - Delta) * scale;
      }
      // END EXERCISE c.7
      __syncthreads();                                         // P and dS are complete
#pragma unroll
      for (int i = 0; i < D / B_LANES; i++) {
        int d = c + B_LANES * i;
        float from_q = 0, from_do = 0, from_k = 0;
        for (int j = 0; j < B; j++) {
          from_do += P[j][r] * dO[j][d];                       // dV = P^T dO: here r is a row of keys
          from_q += dS[j][r] * Q[j][d];                        // dK = dS^T Q
          from_k += dS[r][j] * K[j][d];                        // dQ = dS K: and here one of queries
        }
        dV[i] += from_do;
        dK[i] += from_q;
        if (row < T) atomicAdd(&dq[at + (size_t)row * D + d], from_k);
      }
    }
  }
  if (k0 + r < T) {
#pragma unroll
    for (int i = 0; i < D / B_LANES; i++) {
      dk[kv + (size_t)(k0 + r) * D + c + B_LANES * i] = dK[i];
      dv[kv + (size_t)(k0 + r) * D + c + B_LANES * i] = dV[i];
    }
  }
}

extern "C" int flash_forward(const float* q, const float* k, const float* v, float* o, float* lse, int heads, int T,
                             int group, float scale, bool causal, cudaStream_t stream) {
  flash_forward_kernel<<<dim3((T + Br - 1) / Br, heads), THREADS, 0, stream>>>(q, k, v, o, lse, T, group, scale, causal);
  return cudaGetLastError();
}

extern "C" int flash_backward(const float* q, const float* k, const float* v, const float* o, const float* lse,
                              const float* d_o, float* delta, float* dq, float* dk, float* dv, int heads, int T, int group,
                              float scale, bool causal, cudaStream_t stream) {
  const int rows = heads * T;
  flash_delta_kernel<<<(rows + 3) / 4, dim3(32, 4), 0, stream>>>(o, d_o, delta, rows);
  cudaMemsetAsync(dq, 0, (size_t)rows * D * sizeof(float), stream);
  flash_backward_kernel<<<dim3((T + B - 1) / B, heads / group), B_THREADS, 0, stream>>>(q, k, v, d_o, lse, delta, dq, dk, dv,
                                                                                     T, group, scale, causal);
  return cudaGetLastError();
}
