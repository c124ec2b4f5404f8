// bfloat16: the upper half of a float, 8 bits of exponent and 7 of fraction. A format to store numbers in:
// the kernels of flash/ compute in fp32 and on tensor cores, so there is no arithmetic here, and it is
// refused.
#pragma once
#include "cuda_runtime.h"

struct __nv_bfloat16 { uint16_t bits; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };

namespace emu {
union FloatBits { float value; uint32_t bits; };
}  // namespace emu

EMU_INLINE float __bfloat162float(__nv_bfloat16 x) {
  emu::FloatBits f;
  f.bits = uint32_t(x.bits) << 16;
  return f.value;
}
// To the nearest, a tie to the even one: add half of the last place that stays, less one if that place is
// even.
EMU_INLINE __nv_bfloat16 __float2bfloat16(float x) {
  emu::FloatBits f;
  f.value = x;
  if ((f.bits & 0x7fffffff) > 0x7f800000) return {0x7fff};       // not a number
  return {uint16_t((f.bits + 0x7fff + (f.bits >> 16 & 1)) >> 16)};
}
EMU_INLINE __nv_bfloat16 __float2bfloat16_rn(float x) { return __float2bfloat16(x); }
EMU_INLINE __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16(x), __float2bfloat16(y)};
}
EMU_INLINE unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
EMU_INLINE __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }

#define EMU_NO_ARITHMETIC(op)                                                                            \
  template <class A = void> __nv_bfloat16 operator op(__nv_bfloat16, __nv_bfloat16) {                    \
    static_assert(emu::refused<A>, "the emulator has no arithmetic in bfloat16: use __bfloat162float "   \
                                   "and compute in fp32");                                               \
    return {};                                                                                           \
  }
EMU_NO_ARITHMETIC(+)
EMU_NO_ARITHMETIC(-)
EMU_NO_ARITHMETIC(*)
EMU_NO_ARITHMETIC(/)
