// Small kernels that are right for a reason the checker must understand, each with one fault that `fault`
// switches on. x holds 1024 numbers and y 1024 zeros. test_csrc_checker.py runs every kernel both ways.
#include <cuda_runtime.h>
constexpr unsigned ALL = 0xffffffff;

__global__ void tree(const float* x, float* y, int fault) {  // barriers between the levels
  __shared__ float s[256];
  int t = threadIdx.x;
  s[t] = x[blockIdx.x * 256 + t];
  __syncthreads();
  for (int half = 128; half; half /= 2) {
    if (t < half) s[t] += s[t + half];
    if (!fault || half != 64) __syncthreads();
  }
  if (t == 0) y[blockIdx.x] = s[0];
}
__global__ void warp_tree(const float* x, float* y, int fault) {  // __syncwarp orders a warp's memory
  __shared__ float s[64];
  int t = threadIdx.x, lane = t % 32;
  s[t] = x[t];
  __syncwarp();
  for (int half = 16; half; half /= 2) {
    float v = lane < half ? s[t + half] : 0.f;
    __syncwarp();
    if (lane < half) s[t] += v;
    if (!fault) __syncwarp();
  }
  if (lane == 0) y[t / 32] = s[t];
}
__global__ void histogram(const float* x, float* y, int fault) {  // atomics from many blocks
  __shared__ float bins[8];
  int t = threadIdx.x, bin = int(fabsf(x[blockIdx.x * 256 + t]) * 4) % 8;
  if (t < 8) bins[t] = 0;
  __syncthreads();
  if (fault) bins[bin] += 1;
  else atomicAdd(&bins[bin], 1.f);
  __syncthreads();
  if (t < 8) atomicAdd(&y[t], bins[t]);
}
__global__ void two_masks(const float* x, float* y, int fault) {  // the halves of a warp meet separately
  int t = threadIdx.x;
  float v = x[t];
  if (t % 32 < 16) for (int d = 8; d; d /= 2) v += __shfl_down_sync(0x0000ffffu, v, d, 16);
  else for (int d = 8; d; d /= 2) v += __shfl_down_sync(fault ? ALL : 0xffff0000u, v, d, 16);
  if (t % 16 == 0) y[t / 16] = v;
}
__global__ void broadcast(const float* x, float* y, int fault) {  // one writes, all read, again and again
  __shared__ float s;
  float sum = 0;
  for (int i = 0; i < 4; i++) {
    if (threadIdx.x == i) s = x[i];
    __syncthreads();
    sum += s;
    if (!fault) __syncthreads();
  }
  y[threadIdx.x] = sum;
}
__global__ void vectors(const float* x, float* y, int fault) {  // 16 bytes at a time, to the last one
  int t = threadIdx.x;
  ((float4*)y)[t] = ((const float4*)x)[fault ? t + 1 : t];
}
__global__ void misaligned(const float* x, float* y, int fault) {  // 8 bytes must lie at a multiple of 8
  int t = threadIdx.x;
  const float2* v = (const float2*)(x + 2 * t + (fault ? 1 : 0));
  y[2 * t] = v->x;
  y[2 * t + 1] = v->y;
}
__global__ void carved(const float* x, float* y, int fault) {  // two arrays in dynamic shared memory
  extern __shared__ float smem[];
  float *a = smem, *b = smem + (fault ? 32 : 64);
  int t = threadIdx.x;
  a[t] = x[t];
  b[t] = x[64 + t];
  __syncthreads();
  y[t] = a[63 - t] + b[63 - t];
}
__global__ void ping_pong(const float* x, float* y, int fault) {  // two buffers need one barrier per step
  __shared__ float s[2][64];
  int t = threadIdx.x, from = 0;
  s[0][t] = x[t];
  for (int step = 0; step < 3; step++) {
    __syncthreads();
    int to = fault ? from : 1 - from;
    s[to][t] = s[from][t] + s[from][(t + 1) % 64];
    from = to;
  }
  y[t] = s[from][t];
}
__global__ void bytes(const float* x, float* y, int fault) {  // neighbours in a word are not one place
  __shared__ unsigned char flag[64];
  int t = threadIdx.x;
  flag[fault ? t / 2 : t] = x[t] > 0;
  __syncthreads();
  y[t] = flag[63 - t];
}
__global__ void early_exit(const float* x, float* y, int fault) {  // whole blocks may leave, threads may not
  __shared__ float s[64];
  int t = threadIdx.x;
  if (fault ? t >= 60 : blockIdx.x >= 2) return;
  s[t] = x[blockIdx.x * 64 + t];
  __syncthreads();
  y[blockIdx.x * 64 + t] = s[63 - t];
}
__global__ void relay(const float* x, float* y, int fault) {  // lane 0 to 8 to 16, by two partial masks
  __shared__ float s;
  int t = threadIdx.x;
  if (t == 0) s = x[0];
  if (t == 0 || t == 8) __syncwarp(0x101);
  if (t == 8 || t == 16) __syncwarp(fault ? (t == 8 ? 0x100 : 0x10000) : 0x10100);
  if (t == 16) y[0] = s;
}
__global__ void float_max(const float* x, float* y, int fault) {  // a loop around compare-and-swap
  float v = fabsf(x[blockIdx.x * 64 + threadIdx.x]);
  if (fault) {
    if (v > *y) *y = v;
    return;
  }
  union Bits { float f; unsigned u; } mine, old, expected;
  mine.f = v;
  old.f = 0;  // what y held at first
  do {
    expected = old;
    if (v <= expected.f) return;
    old.u = atomicCAS((unsigned*)y, expected.u, mine.u);
  } while (old.u != expected.u);
}
__global__ void interleaved(const float* x, float* y, int fault) {  // blocks share an array, not an element
  int i = threadIdx.x * gridDim.x + blockIdx.x;
  y[fault && i ? i - i % 2 : i] = x[i];
}
__global__ void shift(float* y, int fault) {  // read, meet, then write in place
  int t = threadIdx.x;
  y[t] = t;
  __syncthreads();
  float next = y[(t + 1) % 128];
  if (!fault) __syncthreads();
  y[t] = next;
}
__global__ void ragged(const float* x, float* y, int fault) {  // 40 threads: a warp of 8 with a full mask
  float v = x[threadIdx.x];
  for (int bit = 4; bit; bit /= 2) v += __shfl_xor_sync(ALL, v, bit);
  if (fault) v += __shfl_down_sync(ALL, v, 8);
  y[threadIdx.x] = v;
}
__global__ void ballot(const float* x, float* y, int fault) {  // compaction by counting votes
  int t = threadIdx.x;
  bool keep = x[t] > 0;
  unsigned votes = fault && keep ? __ballot_sync(ALL, keep) : __ballot_sync(ALL, keep);
  if (keep) y[t / 32 * 32 + __popc(votes & ((1u << t % 32) - 1))] = x[t];
}
__global__ void first(const float* x, float* scratch) { scratch[threadIdx.x] = 2 * x[threadIdx.x]; }
__global__ void second(const float* scratch, float* y) { y[threadIdx.x] = scratch[255 - threadIdx.x]; }
__global__ void columns(const float* x, float* y, int fault) {  // an index that stays in its row
  __shared__ float s[8][9];
  int r = threadIdx.y, c = threadIdx.x;
  s[r][fault ? c + 2 : c] = x[r * 8 + c];
  __syncthreads();
  y[c * 8 + r] = s[r][c];
}

extern "C" int tricky(const float* x, float* y, float* out_scratch, int which, int fault,
                      cudaStream_t stream) {
  switch (which) {
    case 0: tree<<<4, 256>>>(x, y, fault); break;
    case 1: warp_tree<<<1, 64>>>(x, y, fault); break;
    case 2: histogram<<<2, 256>>>(x, y, fault); break;
    case 3: two_masks<<<1, 64>>>(x, y, fault); break;
    case 4: broadcast<<<1, 64>>>(x, y, fault); break;
    case 5: vectors<<<1, 256, 0, stream>>>(x, y, fault); break;
    case 6: misaligned<<<1, 500>>>(x, y, fault); break;
    case 7: carved<<<1, 64, 128 * sizeof(float)>>>(x, y, fault); break;
    case 8: ping_pong<<<1, 64>>>(x, y, fault); break;
    case 9: bytes<<<1, 64>>>(x, y, fault); break;
    case 10: early_exit<<<4, 64>>>(x, y, fault); break;
    case 11: relay<<<1, 32>>>(x, y, fault); break;
    case 12: float_max<<<16, 64>>>(x, y, fault); break;
    case 13: interleaved<<<4, 256>>>(x, y, fault); break;
    case 14: shift<<<1, 128>>>(y, fault); break;
    case 15: ragged<<<1, 40>>>(x, y, fault); break;
    case 16: ballot<<<1, 64>>>(x, y, fault); break;
    case 17:
      if (!fault) first<<<1, 256>>>(x, out_scratch);
      second<<<1, 256>>>(out_scratch, y);
      break;
    case 18: columns<<<1, dim3(8, 8)>>>(x, y, fault); break;
    case 19: vectors<<<1, fault ? 2000 : 256>>>(x, y, 0); break;
  }
  return cudaGetLastError();
}
