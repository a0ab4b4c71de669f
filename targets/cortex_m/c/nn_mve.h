/* Helium: four 32-bit lanes, where the core has them. */
#ifndef NN_MVE_H
#define NN_MVE_H

#include "nn.h"

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#include <arm_mve.h>
#define NN_MVE 1

/* nn_requantize in each lane; `left` is not negative, `right` not positive. */
static inline int32x4_t nn_requantize_lanes(int32x4_t value, int32x4_t multiplier, int32x4_t left, int32x4_t right)
{
    const int32x4_t product = vqrdmulhq_s32(vshlq_s32(value, left), multiplier);
    const int32x4_t down = vshrq_n_s32(vandq_s32(product, right), 31); /* half away from zero */
    return vrshlq_s32(vqaddq_s32(product, down), right);
}

/* nn_requantize_packed in each lane. */
static inline int32x4_t nn_requantize_packed_lanes(int32x4_t value, int32x4_t multiplier, int32x4_t halvings)
{
    const int32x4_t zero = vdupq_n_s32(0);
    const int32x4_t shift = vpselq_s32(vaddq_n_s32(halvings, 64), vsubq_s32(vdupq_n_s32(-1), halvings),
                                       vcmpltq_n_s32(halvings, 0));
    return nn_requantize_lanes(value, multiplier, vmaxq_s32(shift, zero), vminq_s32(shift, zero));
}

static inline int32x4_t nn_clamp_lanes(int32x4_t value, int32_t low, int32_t high)
{
    return vminq_s32(vmaxq_s32(value, vdupq_n_s32(low)), vdupq_n_s32(high));
}
#else
#define NN_MVE 0
#endif

#endif
