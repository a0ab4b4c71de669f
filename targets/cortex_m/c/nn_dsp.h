/* Two 16-bit numbers in a word, lane 0 in the low half: ACLE intrinsics where the core has them, plain C elsewhere, with
 * the same bits. */
#ifndef NN_DSP_H
#define NN_DSP_H

#include "nn.h"

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32)
#include <arm_acle.h>
#define NN_DSP 1
#else
#define NN_DSP 0
#endif

/* For loops that need nearly all registers: gcc's first scheduling pass would make it spill. */
#if NN_DSP && defined(__GNUC__) && !defined(__clang__)
#define NN_ALL_REGISTERS __attribute__((noinline, optimize("no-schedule-insns")))
#else
#define NN_ALL_REGISTERS
#endif

/* Bytes 0 and 2 of a word, sign-extended into two lanes. */
static inline uint32_t nn_even_bytes(uint32_t word)
{
#if NN_DSP
    return (uint32_t)__sxtb16((int32_t)word);
#else
    return (uint16_t)(int8_t)(word & 0xffu) | (uint32_t)(uint16_t)(int8_t)(word >> 16 & 0xffu) << 16;
#endif
}

/* The same plus the lanes of `offset`; no lane may overflow. */
static inline uint32_t nn_even_bytes_plus(uint32_t offset, uint32_t word)
{
#if NN_DSP
    return (uint32_t)__sxtab16((int32_t)offset, (int32_t)word);
#else
    const uint32_t lanes = nn_even_bytes(word);
    return ((offset + lanes) & 0xffffu) | ((offset & 0xffff0000u) + (lanes & 0xffff0000u));
#endif
}

/* Bytes 1 and 3. */
static inline uint32_t nn_odd_bytes(uint32_t word)
{
#if NN_DSP
    uint32_t lanes; /* ACLE has no rotated form */
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(lanes) : "r"(word));
    return lanes;
#else
    return nn_even_bytes(word >> 8);
#endif
}

static inline int32_t nn_low(uint32_t lanes) { return (int16_t)(lanes & 0xffffu); }
static inline int32_t nn_high(uint32_t lanes) { return (int16_t)(lanes >> 16); }

static inline uint32_t nn_odd_bytes_plus(uint32_t offset, uint32_t word)
{
#if NN_DSP
    uint32_t lanes;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(lanes) : "r"(offset), "r"(word));
    return lanes;
#else
    return nn_even_bytes_plus(offset, word >> 8);
#endif
}

/* sum + the products of both lanes. */
static inline int32_t nn_dot(uint32_t a, uint32_t b, int32_t sum)
{
#if NN_DSP
    return __smlad((int32_t)a, (int32_t)b, sum);
#else
    const uint32_t products = (uint32_t)(nn_low(a) * nn_low(b)) + (uint32_t)(nn_high(a) * nn_high(b));
    return (int32_t)((uint32_t)sum + products); /* wraps as the instruction does */
#endif
}

/* sum + the product of the low lanes; of the high lanes. */
static inline int32_t nn_low_product(uint32_t a, uint32_t b, int32_t sum)
{
#if NN_DSP
    return __smlabb((int32_t)a, (int32_t)b, sum);
#else
    return sum + nn_low(a) * nn_low(b);
#endif
}

static inline int32_t nn_high_lanes_product(uint32_t a, uint32_t b, int32_t sum)
{
#if NN_DSP
    return __smlatt((int32_t)a, (int32_t)b, sum);
#else
    return sum + nn_high(a) * nn_high(b);
#endif
}

/* Four bytes as they lie in memory, byte 0 lowest. */
static inline uint32_t nn_four_bytes(const int8_t *from)
{
#if NN_DSP
    uint32_t word; /* these cores load words from anywhere */
    memcpy(&word, from, 4);
    return word;
#else
    return (uint8_t)from[0] | (uint32_t)(uint8_t)from[1] << 8 | (uint32_t)(uint8_t)from[2] << 16 |
           (uint32_t)(uint8_t)from[3] << 24;
#endif
}

/* a * b / 2^32, rounded half up. */
static inline int32_t nn_high_half(int32_t a, int32_t b)
{
#if NN_DSP
    int32_t product;
    __asm__("smmulr %0, %1, %2" : "=r"(product) : "r"(a), "r"(b));
    return product;
#else
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 31)) >> 32);
#endif
}

/* nn_high_product for |a| < 2^30. */
static inline int32_t nn_short_high_product(int32_t a, int32_t b) { return nn_high_half(a * 2, b); }

/* nn_requantize(value, multiplier, -(halvings + 1)) for |value| < 2^30: the same two roundings in fewer steps. */
static inline int32_t nn_requantize_down(int32_t value, int32_t multiplier, int32_t halvings)
{
    const int32_t product = nn_short_high_product(value, multiplier);
    return (((product + (product >> 31)) >> halvings) + 1) >> 1; /* half away from zero */
}

/* The same where `halvings` is not negative, else nn_requantize with the shift halvings + 64. */
static inline int32_t nn_requantize_packed(int32_t value, int32_t multiplier, int32_t halvings)
{
    return halvings >= 0 ? nn_requantize_down(value, multiplier, halvings)
                         : nn_requantize(value, multiplier, halvings + 64);
}

/* nn_divide_by_power_of_two for an exponent from 1 up, whose half may be added to |value| without overflow. */
static inline int32_t nn_halve(int32_t value, int32_t exponent)
{
    return (value + (value >> 31) + ((int32_t)1 << (exponent - 1))) >> exponent;
}

#endif
