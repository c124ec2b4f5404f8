// A fiber: a stack of its own, and a place to continue at. Switching is a few instructions, no system call.
#pragma once
#include "emulator.h"
#if !(__x86_64__ || __aarch64__)
#define EMU_UCONTEXT 1               // any other processor: the portable, slower functions of POSIX
#endif
#if EMU_UCONTEXT
#include <ucontext.h>
#endif

namespace emu {
struct Fiber {
  char* stack = nullptr;
#if EMU_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
};
void fiber_start(Fiber&, void (*entry)());   // the next resume calls entry() on a fresh stack; it must never return
void fiber_resume(Fiber&);                   // from the scheduler into the fiber
void fiber_yield(Fiber&);                    // from the fiber back to the scheduler
}  // namespace emu
