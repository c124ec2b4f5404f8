// The calls that -fsanitize=thread,bounds puts into a kernel, answered by our checker.
#include "shadow.h"

#define HOOK(bytes) \
  extern "C" void __tsan_read##bytes(void* p) { emu::access(p, bytes, false, false, __builtin_return_address(0)); } \
  extern "C" void __tsan_write##bytes(void* p) { emu::access(p, bytes, true, false, __builtin_return_address(0)); } \
  extern "C" void __tsan_unaligned_read##bytes(void* p) { emu::access(p, bytes, false, false, __builtin_return_address(0)); } \
  extern "C" void __tsan_unaligned_write##bytes(void* p) { emu::access(p, bytes, true, false, __builtin_return_address(0)); }
HOOK(1)
HOOK(2)
HOOK(4)
HOOK(8)
HOOK(16)
static void range(const void* p, size_t bytes, bool write, const void* code) {
  for (size_t i = 0; i < bytes; i += 4) emu::access((const char*)p + i, bytes - i < 4 ? unsigned(bytes - i) : 4, write, false, code);
}
extern "C" void __tsan_read_range(void* p, size_t bytes) { range(p, bytes, false, __builtin_return_address(0)); }
extern "C" void __tsan_write_range(void* p, size_t bytes) { range(p, bytes, true, __builtin_return_address(0)); }
extern "C" void* __tsan_memcpy(void* to, const void* from, size_t bytes) {     // clang writes loops as these
  range(from, bytes, false, __builtin_return_address(0));
  range(to, bytes, true, __builtin_return_address(0));
  return memcpy(to, from, bytes);
}
extern "C" void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  range(from, bytes, false, __builtin_return_address(0));
  range(to, bytes, true, __builtin_return_address(0));
  return memmove(to, from, bytes);
}
extern "C" void* __tsan_memset(void* to, int value, size_t bytes) {
  range(to, bytes, true, __builtin_return_address(0));
  return memset(to, value, bytes);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

// -fsanitize=bounds: every index into an array of known size is compared with that size.
struct IndexCheck {
  const char* file;
  unsigned line, column;
  struct Type { uint16_t kind, info; char name[1]; } *array, *index;
};
extern "C" void __ubsan_handle_out_of_bounds(IndexCheck* check, uintptr_t index) {
  const char* slash = strrchr(check->file, '/');
  if (emu::machine.running)
    emu::fail("out of bounds: %s uses index %d of an array %s at %s:%u", emu::thread_name().c_str(), int(index),
              check->array->name, slash ? slash + 1 : check->file, check->line);
}
