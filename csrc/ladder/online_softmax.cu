// The softmax of each row of x [rows, n], reading the row once to learn its maximum and its sum together
// (Milakov and Gimelshein 2018, arXiv 1805.02867). A warp owns a row.
// New to matmul.cu: registers exchanged between lanes by shuffles, without shared memory; and the rescaling
// of a running sum, which is the idea that makes flash attention possible.
#include <cuda_runtime.h>
#include <math.h>

constexpr unsigned ALL_LANES = 0xffffffff;

__global__ void online_softmax_kernel(const float* x, float* y, int rows, int n) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
  if (row >= rows) return;  // the whole warp leaves together
  float m = -INFINITY, l = 0;  // the largest so far, and the sum of exp(x - m) so far
  // EXERCISE c.5 online softmax
  for (int j = lane; j < n; j += 32) {
    float value = x[row * n + j], m_new = fmaxf(m, value);
    l = l * __expf(m - m_new) + __expf(value - m_new);
    m = m_new;
  }
  for (int bit = 16; bit > 0; bit /= 2) {  // lane i meets lane i xor bit; both get the pair of both
    float m_other = __shfl_xor_sync(ALL_LANES, m, bit), l_other = __shfl_xor_sync(ALL_LANES, l, bit);
    float m_new = fmaxf(m, m_other);
    if (m_new > -INFINITY) l = l * __expf(m - m_new) + l_other * __expf(m_other - m_new);
    m = m_new;
  }
  // END EXERCISE c.5
  for (int j = lane; j < n; j += 32) y[row * n + j] = __expf(x[row * n + j] - m) / l;
}

extern "C" int online_softmax(const float* x, float* y, int rows, int n, cudaStream_t stream) {
  online_softmax_kernel<<<(rows + 3) / 4, dim3(32, 4), 0, stream>>>(x, y, rows, n);
  return cudaGetLastError();
}
