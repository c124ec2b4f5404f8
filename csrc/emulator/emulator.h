// What the parts of the emulator share. Kernels never see this; they see cuda_runtime.h.
#pragma once
#define EMU_IMPLEMENTATION
#include "cuda_runtime.h"
#undef memcpy
#undef memset
#include <string>

extern uint3 threadIdx, blockIdx;      // here, and only here, they can be written
extern dim3 blockDim, gridDim;

constexpr size_t MAX_SHARED_BYTES = 227 << 10;
extern thread_local char smem[MAX_SHARED_BYTES];   // what `extern __shared__ float smem[]` in a kernel names

namespace emu {
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK_BYTES = 256 << 10, DEFAULT_SHARED_BYTES = 48 << 10;

struct Machine {                       // what is running at this moment
  const char* kernel = "";
  bool running = false;                // is a CUDA thread running (not the scheduler)?
  unsigned thread = 0, threads = 0;    // its number within the block; threads in a block
  uint32_t block = 0, blocks = 0;      // the block's number within the grid; blocks in the grid
  uint32_t serial = 0;  // blocks begun since the library was loaded, this one included: never 0
  uint32_t launch_serial = 0;          // the serial of this launch's first block
  size_t dynamic_bytes = 0;
  char *stack = nullptr, *stack_end = nullptr;   // of the running thread
  char* host_frame = nullptr;          // the launch's arguments lie just above this address
};
extern Machine machine;

// Stop the kernel: remember the sentence, abandon every fiber. Returns only when no kernel is running.
void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string thread_name(unsigned thread, uint32_t block);     // "thread (3,0,0) of block (1,0,0)"
std::string thread_name();                                    // of the running thread
std::string place(Site);                                      // "line 42", "line 42 of fragments.cuh"

// The checker (checker.cpp) is told of these; the fast build links unchecked.cpp, where they are empty.
void on_launch();
void on_block();
void on_barrier();
void on_sync_warp(unsigned warp, unsigned mask);
void on_shuffle();
void on_block_end();
void on_memset(char* to, size_t bytes);
void on_mma(bool during_copies);
void on_row(const void* row, const void* code);                           // ldmatrix: a lane names 16 bytes,
void on_received(const void* address, unsigned bytes, const void* code);  // and receives these
void on_copy_begin(char* to, const char* from, unsigned bytes, bool inside, const void* code);
void on_copy_end(char* to, unsigned bytes, const void* code);
}  // namespace emu
