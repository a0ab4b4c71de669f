#include "nn_dsp.h"
#include "nn_mve.h"

#define BITS 20 /* below the point of both operands */

#if NN_MVE
static int32x4_t operand(const int8_t *from, mve_pred16_t lanes, int32_t offset, int32_t multiplier, int32_t shift)
{
    const int32x4_t wide = vshlq_n_s32(vaddq_n_s32(vldrbq_z_s32(from, lanes), offset), BITS);
    return nn_requantize_lanes(wide, vdupq_n_s32(multiplier), vdupq_n_s32(0), vdupq_n_s32(shift));
}

void nn_add(const nn_add_params *params, const int8_t *a, const int8_t *b, int8_t *output)
{
    const nn_add_params copy = *params, *const p = &copy; /* bytes that are written cannot change it */
    const int32x4_t multiplier = vdupq_n_s32(p->multiplier);
    const int32x4_t left = vdupq_n_s32(nn_larger(p->shift, 0)), right = vdupq_n_s32(nn_smaller(p->shift, 0));
    for (int32_t rest = p->count; rest > 0; rest -= 4, a += 4, b += 4, output += 4) {
        const mve_pred16_t lanes = vctp32q((uint32_t)rest);
        const int32x4_t first = operand(a, lanes, p->offset_a, p->multiplier_a, p->shift_a);
        const int32x4_t second = operand(b, lanes, p->offset_b, p->multiplier_b, p->shift_b);
        const int32x4_t sum = nn_requantize_lanes(vaddq_s32(first, second), multiplier, left, right);
        const int32x4_t code = vaddq_n_s32(sum, p->output_offset);
        vstrbq_p_s32(output, nn_clamp_lanes(code, p->activation_min, p->activation_max), lanes);
    }
}
#else
/* How a code becomes a number: ((code * scale + start) * multiplier / 2^32) / 2^right, each rounded. */
typedef struct {
    int32_t scale, start, multiplier, right;
} operand;

/* A factor of one half, which the coarser operand has, is a shift by none: written as twice the number and a shift by
 * one, it takes the same steps as any other. */
static operand operand_of(int32_t offset, int32_t multiplier, int32_t shift)
{
    const int32_t scale = (int32_t)1 << (BITS + 1 + (shift == 0 ? 1 : 0));
    const operand made = {scale, offset * scale, multiplier, shift == 0 ? 1 : -shift};
    return made;
}

static inline int32_t number(const operand *o, int32_t code)
{
    return nn_halve(nn_high_half(code * o->scale + o->start, o->multiplier), o->right);
}

static inline void add(const nn_add_params *p, const operand *first, const operand *second, const int8_t *a,
                       const int8_t *b, int8_t *output, int32_t low, int32_t high)
{
    for (const int8_t *const end = a + p->count; a != end;) {
        const int32_t sum = number(first, *a++) + number(second, *b++);
        const int32_t code = nn_halve(nn_short_high_product(sum, p->multiplier), -p->shift) + p->output_offset;
        *output++ = nn_clamp(code, low, high);
    }
}

void nn_add(const nn_add_params *params, const int8_t *a, const int8_t *b, int8_t *output)
{
    const nn_add_params copy = *params, *const p = &copy; /* bytes that are written cannot change it */
    const operand first = operand_of(p->offset_a, p->multiplier_a, p->shift_a);
    const operand second = operand_of(p->offset_b, p->multiplier_b, p->shift_b);
    if (p->shift >= 0) { /* an output far finer than its operands */
        for (int32_t i = 0; i < p->count; i++) {
            const int32_t sum = number(&first, a[i]) + number(&second, b[i]);
            const int32_t code = nn_requantize(sum, p->multiplier, p->shift) + p->output_offset;
            output[i] = nn_clamp(code, p->activation_min, p->activation_max);
        }
    } else if (p->activation_min == INT8_MIN && p->activation_max == INT8_MAX) { /* one instruction clamps */
        add(p, &first, &second, a, b, output, INT8_MIN, INT8_MAX);
    } else {
        add(p, &first, &second, a, b, output, p->activation_min, p->activation_max);
    }
}
#endif
