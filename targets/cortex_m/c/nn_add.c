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
#define HALF ((int32_t)1 << 30) /* the multiplier of a factor of one half, with a shift by none */

/* What makes numbers of codes: (code * scale + start) * multiplier / 2^32 / 2^right, rounded twice. */
typedef struct {
    int32_t scale, start, multiplier, right;
} factor;

/* As the same steps as any other, a shift by none (which comes with HALF) is twice the number and a shift by one. */
static factor factor_of(int32_t offset, int32_t multiplier, int32_t shift)
{
    const int32_t scale = (int32_t)1 << (shift < 0 ? BITS + 1 : BITS + 2);
    const factor made = {scale, offset * scale, multiplier, shift < 0 ? -shift : 1};
    return made;
}

/* The operand of the larger scale, the coarse one, has a factor of exactly one half: its number is code * 2^19. */
static inline void add(const nn_add_params *p, factor how, const int8_t *fine, int32_t offset, const int8_t *coarse,
                       int8_t *output, int32_t low, int32_t high)
{
    const int32_t multiplier = p->multiplier, right = -p->shift, output_offset = p->output_offset;
    const int32_t coarse_start = offset * (1 << (BITS - 1));
    for (const int8_t *const end = fine + p->count; fine != end;) {
        const int32_t number = nn_halve(nn_high_half(*fine++ * how.scale + how.start, how.multiplier), how.right);
        const int32_t sum = number + *coarse++ * (1 << (BITS - 1)) + coarse_start;
        *output++ = nn_clamp(nn_halve(nn_short_high_product(sum, multiplier), right) + output_offset, low, high);
    }
}

void nn_add(const nn_add_params *params, const int8_t *a, const int8_t *b, int8_t *output)
{
    const nn_add_params copy = *params, *const p = &copy; /* bytes that are written cannot change it */
    const int swap = !(p->multiplier_b == HALF && p->shift_b == 0);
    const int halves = !swap || (p->multiplier_a == HALF && p->shift_a == 0);
    if (p->shift >= 0 || !halves) { /* an output far finer than its operands */
        for (int32_t i = 0; i < p->count; i++) {
            const int32_t first = nn_requantize((a[i] + p->offset_a) * (1 << BITS), p->multiplier_a, p->shift_a);
            const int32_t second = nn_requantize((b[i] + p->offset_b) * (1 << BITS), p->multiplier_b, p->shift_b);
            const int32_t sum = nn_requantize(first + second, p->multiplier, p->shift) + p->output_offset;
            output[i] = nn_clamp(sum, p->activation_min, p->activation_max);
        }
        return;
    }
    const factor how = swap ? factor_of(p->offset_b, p->multiplier_b, p->shift_b)
                            : factor_of(p->offset_a, p->multiplier_a, p->shift_a);
    const int8_t *const fine = swap ? b : a, *const coarse = swap ? a : b;
    const int32_t offset = swap ? p->offset_a : p->offset_b;
    if (p->activation_min == INT8_MIN && p->activation_max == INT8_MAX) { /* one instruction clamps */
        add(p, how, fine, offset, coarse, output, INT8_MIN, INT8_MAX);
    } else {
        add(p, how, fine, offset, coarse, output, p->activation_min, p->activation_max);
    }
}
#endif
