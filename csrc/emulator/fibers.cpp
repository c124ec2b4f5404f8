// Fibers for x86-64 and aarch64 in a few lines of assembly, for anything else with ucontext.
#include "fibers.h"
#include <sys/mman.h>

namespace emu {
#if EMU_UCONTEXT
static ucontext_t scheduler;
void fiber_resume(Fiber& f) { swapcontext(&scheduler, &f.context); }
void fiber_yield(Fiber& f) { swapcontext(&f.context, &scheduler); }

#else
// Push the registers that a call must preserve, exchange stack pointers, pop the other side's registers, return.
extern "C" void switch_stack(void** save, void* load) asm("emu_switch_stack");
#if __x86_64__
constexpr int SAVED = 6;
asm(R"(
  .text
  .globl emu_switch_stack
emu_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");
#else
constexpr int SAVED = 20;
asm(R"(
  .text
  .globl emu_switch_stack
  .p2align 2
emu_switch_stack:
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  ret
)");
#endif
static void* scheduler;
void fiber_resume(Fiber& f) { switch_stack(&scheduler, f.stack_pointer); }
void fiber_yield(Fiber& f) { switch_stack(&f.stack_pointer, scheduler); }
#endif

void fiber_start(Fiber& f, void (*entry)()) {
  if (!f.stack) {                              // the page below stays forbidden, so that an overflow stops here
    size_t guard = 16384;
    f.stack = (char*)mmap(nullptr, STACK_BYTES + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0) + guard;
    mprotect(f.stack - guard, guard, PROT_NONE);
  }
#if EMU_UCONTEXT
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack;
  f.context.uc_stack.ss_size = STACK_BYTES;
  makecontext(&f.context, entry, 0);
#elif __x86_64__
  void** top = (void**)(f.stack + STACK_BYTES) - 2;
  *top = (void*)entry;                         // `ret` jumps there, and leaves rsp 8 below a multiple of 16
  f.stack_pointer = top - SAVED;
#else
  void** top = (void**)(f.stack + STACK_BYTES) - SAVED;
  top[1] = (void*)entry;                       // x30, where `ret` jumps
  f.stack_pointer = top;
#endif
}
}  // namespace emu
