// The calls that -fsanitize=thread,bounds puts into a kernel, answered by our checker.
#include "shadow.h"

// A range of bytes, as the widest requests that its address allows: a uint4 is one of 16 bytes.
static void range(const void* p, size_t bytes, bool write, const void* code) {
  const char* at = (const char*)p;
  for (size_t left = bytes; left > 0;) {
    unsigned step = 16;
    while (step > left || (step > 4 && uintptr_t(at) % step)) step /= 2;
    emu::access(at, step, write, emu::PLAIN, code);
    at += step, left -= step;
  }
}
static void here(void* p, unsigned bytes, bool write, const void* code) {
  emu::aligned_access(p, bytes, write, emu::PLAIN, code);
}
#define HOOK(bytes)                                                                                   \
  extern "C" void __tsan_read##bytes(void* p) { here(p, bytes, false, __builtin_return_address(0)); } \
  extern "C" void __tsan_write##bytes(void* p) { here(p, bytes, true, __builtin_return_address(0)); } \
  extern "C" void __tsan_unaligned_read##bytes(void* p) {                                             \
    range(p, bytes, false, __builtin_return_address(0));                                              \
  }                                                                                                   \
  extern "C" void __tsan_unaligned_write##bytes(void* p) {                                            \
    range(p, bytes, true, __builtin_return_address(0));                                               \
  }
HOOK(1)
HOOK(2)
HOOK(4)
HOOK(8)
HOOK(16)
extern "C" void __tsan_read_range(void* p, size_t bytes) {
  range(p, bytes, false, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* p, size_t bytes) {
  range(p, bytes, true, __builtin_return_address(0));
}
// The compiler copies structures, and clears arrays, by calls of memcpy and memset: in a kernel's assembly
// these names are replaced by ours (cuda_build.py).
extern "C" void* emu_memcpy(void* to, const void* from, size_t bytes) {
  range(from, bytes, false, __builtin_return_address(0));
  range(to, bytes, true, __builtin_return_address(0));
  return memmove(to, from, bytes);
}
extern "C" void* emu_memset(void* to, int value, size_t bytes) {
  range(to, bytes, true, __builtin_return_address(0));
  return memset(to, value, bytes);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

// -fsanitize=bounds: every index into an array of known size is compared with that size.
// -fsanitize=alignment: a float4 lies at a multiple of 16 bytes. The compiler passes what it knows of the
// place.
struct Place {
  const char* file;
  unsigned line, column;
};
static std::string name(const Place& place) {
  const char* slash = strrchr(place.file, '/');
  return (slash ? slash + 1 : place.file) + (":" + std::to_string(place.line));
}
struct IndexCheck {
  Place place;
  struct Type { uint16_t kind, info; char name[1]; } *array, *index;
};
extern "C" void __ubsan_handle_out_of_bounds(IndexCheck* check, uintptr_t index) {
  if (emu::machine.running)
    emu::fail("out of bounds: %s uses index %d of an array %s at %s", emu::thread_name().c_str(), int(index),
              check->array->name, name(check->place).c_str());
}
struct AlignmentCheck {
  Place place;
  IndexCheck::Type* type;
  unsigned char log_alignment, kind;
};
extern "C" void __ubsan_handle_type_mismatch_v1(AlignmentCheck* check, uintptr_t address) {
  if (emu::machine.running)
    emu::fail("misaligned: %s uses a %s at %s at address %#lx, which is not a multiple of %d",
              emu::thread_name().c_str(), check->type->name, name(check->place).c_str(),
              (unsigned long)address, 1 << check->log_alignment);
}
