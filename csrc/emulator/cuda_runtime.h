// What a kernel sees. This folder comes first on the include path of an ordinary C++ compiler, so that
// `#include <cuda_runtime.h>` in a .cu file finds this header instead of NVIDIA's, and the same source that
// nvcc compiles for a GPU compiles for the CPU. Every CUDA thread of a block becomes a fiber: a stack of its
// own, all on ONE thread of the operating system. A fiber runs until it reaches a barrier or a warp
// operation; blocks run one after another. So a run is deterministic, and printf and gdb work in a kernel.
// What is missing is refused with a sentence (see the end): it is never silently different.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define __CUDA_EMULATOR__ 1
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)     // a hint for the register allocator of a GPU
#define __align__(bytes) __attribute__((aligned(bytes)))
// Static storage inside a function, and legal after `extern`: both are needed. `used`: a compiler may not
// reason that an array which nobody writes keeps the zeros of C++.
#define __shared__ thread_local __attribute__((used))
#define EMU_INLINE inline __attribute__((always_inline))
#define EMU_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#ifndef EMU_IMPLEMENTATION
// const: a fiber sees one value all its life, so the compiler may keep it in a register across a barrier.
extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;
#endif
constexpr int warpSize = 32;

// ---- launches
typedef int cudaError_t;
typedef void* cudaStream_t;        // accepted and ignored: work is done when the launch returns
enum {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

namespace emu {
struct Call { const char* name; void* kernel; dim3 grid, block; size_t dynamic_bytes; };
void run(const Call&, void (*body)(void*), void* arguments);

// The build step rewrites  k<<<grid, block, bytes, stream>>>(args)  to  emu::launch("k", k, grid, ...)(args).
template <class... P> struct Launch {
  Call call;
  void (*kernel)(P...);
  void operator()(P... args) {
    auto body = [&] { kernel(args...); };
    run(call, [](void* b) { (*static_cast<decltype(body)*>(b))(); }, &body);
  }
};
template <class... P>
Launch<P...> launch(const char* name, void (*k)(P...), dim3 grid, dim3 block, size_t bytes = 0,
                    cudaStream_t = 0) {
  return {{name, (void*)k, grid, block, bytes}, k};
}
cudaError_t allow_dynamic_bytes(void* kernel, int bytes);
}  // namespace emu

extern "C" cudaError_t cudaGetLastError();                    // returns the error and forgets it, as in CUDA
extern "C" cudaError_t cudaPeekAtLastError();
extern "C" const char* cudaGetErrorString(cudaError_t);       // for 719: the checker's whole sentence
extern "C" cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t);
inline cudaError_t cudaDeviceSynchronize() { return cudaPeekAtLastError(); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaPeekAtLastError(); }
template <class... P> cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute, int bytes) {
  return emu::allow_dynamic_bytes((void*)kernel, bytes);
}

// ---- barriers and warp operations: a fiber gives way to the others here
namespace emu {
struct Site { const char* file; int line; };                  // where in the source the call stands
void barrier(Site);
unsigned lane();
uint64_t exchange(unsigned mask, uint64_t mine, int source, const char* op,
                  Site);  // the value of lane `source`
unsigned vote(unsigned mask, bool mine, const char* op, Site);
void sync_warp(unsigned mask, Site);
void trap(Site);

template <class T> T shuffle(unsigned mask, T value, int source, const char* op, Site site) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, source, op, site);
  memcpy(&value, &bits, sizeof(T));
  return value;
}
inline int same_segment(int source, int width) {
  return source / width == int(lane()) / width ? source : lane();
}
}  // namespace emu

inline void __syncthreads(EMU_CALLER) { emu::barrier({file, line}); }
inline void __syncwarp(unsigned mask = ~0u, EMU_CALLER) { emu::sync_warp(mask, {file, line}); }
inline void __trap(EMU_CALLER) { emu::trap({file, line}); }
template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32, EMU_CALLER) {
  return emu::shuffle(mask, v, int(emu::lane()) / width * width + source % width, "__shfl_sync",
                      {file, line});
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, EMU_CALLER) {
  return emu::shuffle(mask, v, emu::same_segment(emu::lane() ^ bits, width), "__shfl_xor_sync", {file, line});
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, EMU_CALLER) {
  return emu::shuffle(mask, v, emu::same_segment(emu::lane() + by, width), "__shfl_down_sync", {file, line});
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, EMU_CALLER) {
  int source = int(emu::lane()) - int(by), first = int(emu::lane()) / width * width;
  return emu::shuffle(mask, v, source < first ? int(emu::lane()) : source, "__shfl_up_sync", {file, line});
}
inline unsigned __ballot_sync(unsigned mask, bool p, EMU_CALLER) {
  return emu::vote(mask, p, "__ballot_sync", {file, line});
}
inline int __any_sync(unsigned mask, bool p, EMU_CALLER) {
  return emu::vote(mask, p, "__any_sync", {file, line}) != 0;
}
inline int __all_sync(unsigned mask, bool p, EMU_CALLER) {
  return emu::vote(mask, !p, "__all_sync", {file, line}) == 0;
}

// ---- atomics: always inlined, so that the checker sees the kernel's line as the caller
namespace emu {
void atomic_access(void* address, size_t bytes);              // tells the checker
void copy(void* to, const void* from, size_t bytes);          // a memcpy that the checker does not see
template <class T> struct Same { typedef T type; };           // a parameter that takes no part in deduction
template <class T, class F> EMU_INLINE T atomic(T* p, F update) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics work on 4 or 8 bytes");
  atomic_access(p, sizeof(T));
  T old;
  copy(&old, p, sizeof(T));
  T now = update(old);
  copy(p, &now, sizeof(T));
  return old;
}
}  // namespace emu
#define EMU_ATOMIC(name, expression) \
  template <class T> EMU_INLINE T name(T* p, typename emu::Same<T>::type v) { \
    return emu::atomic(p, [&](T old) -> T { return expression; }); \
  }
EMU_ATOMIC(atomicAdd, old + v)
EMU_ATOMIC(atomicSub, old - v)
EMU_ATOMIC(atomicMax, v > old ? v : old)
EMU_ATOMIC(atomicMin, v < old ? v : old)
EMU_ATOMIC(atomicExch, ((void)old, v))
template <class T>
EMU_INLINE T atomicCAS(T* p, typename emu::Same<T>::type expected, typename emu::Same<T>::type v) {
  return emu::atomic(p, [&](T old) -> T { return old == expected ? v : old; });
}

// ---- arithmetic
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
template <class T> T __ldg(const T* p) { return *p; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
#define __expf expf                // a GPU's __expf is faster and less exact: errors of about 1e-6 relative
#define __logf logf
#define __fdividef(x, y) ((x) / (y))
#define rsqrtf(x) (1.0f / sqrtf(x))

// ---- what is not emulated: a compile error that says why
namespace emu { template <class...> constexpr bool refused = false; }
#define EMU_REFUSE(name, why)                                                 \
  template <class... A>                                                       \
  void name(A...) {                                                           \
    static_assert(emu::refused<A...>, "the emulator has no " #name ": " why); \
  }
#define EMU_REFUSE_PLAIN(name, why) \
  template <bool b = false> int name() { static_assert(b, "the emulator has no " #name ": " why); return 0; }
EMU_REFUSE(cudaMalloc, "memory belongs to torch; pass a tensor's pointer")
EMU_REFUSE(cudaFree, "memory belongs to torch")
EMU_REFUSE(cudaMemcpy, "memory belongs to torch; copy with a tensor's copy_")
EMU_REFUSE(cudaMemcpyAsync, "memory belongs to torch; copy with a tensor's copy_")
EMU_REFUSE(cudaLaunchKernel, "launch with <<<grid, block, bytes, stream>>>")
EMU_REFUSE(cudaLaunchCooperativeKernel, "blocks run one after another, so a grid cannot wait for itself")
EMU_REFUSE(__syncthreads_count, "count with atomicAdd on shared memory")
EMU_REFUSE(__syncthreads_and, "combine flags in shared memory")
EMU_REFUSE(__syncthreads_or, "combine flags in shared memory")
EMU_REFUSE(__match_any_sync, "compare with shuffles")
EMU_REFUSE(__match_all_sync, "compare with shuffles")
EMU_REFUSE(__reduce_add_sync, "reduce with shuffles")
EMU_REFUSE(__nanosleep, "threads do not run at the same time")
EMU_REFUSE(atomicInc, "use atomicAdd")
EMU_REFUSE(atomicDec, "use atomicSub")
EMU_REFUSE_PLAIN(__activemask, "state the mask: which lanes are active is up to the compiler")
EMU_REFUSE_PLAIN(__threadfence, "blocks run one after another here; end the kernel to order two blocks")
EMU_REFUSE_PLAIN(__threadfence_block, "use __syncthreads or __syncwarp")
EMU_REFUSE_PLAIN(clock, "an emulated thread has no clock; count bytes instead")
EMU_REFUSE_PLAIN(clock64, "an emulated thread has no clock; count bytes instead")
#define memcpy(to, from, bytes) \
  static_assert(false, "the emulator has no memcpy in a kernel: assign element by element")
#define memset(to, value, bytes) \
  static_assert(false, "the emulator has no memset in a kernel: assign element by element")
