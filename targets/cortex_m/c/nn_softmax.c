/* gemmlowp's fixed-point softmax (gemmlowp/fixedpoint/fixedpoint.h). Qm.n: m integer bits, n below the point. */
#include "nn.h"

static int32_t shift_left_saturating(int32_t value, int32_t bits)
{
    const int32_t limit = INT32_MAX >> bits;
    return value > limit ? INT32_MAX : value < -limit - 1 ? INT32_MIN : (int32_t)((uint32_t)value << bits);
}

/* exp(a) for a in [-1/4, 0), both Q0.31: Taylor around -1/8. */
static int32_t exp_near_zero(int32_t a)
{
    const int32_t exp_minus_eighth = 1895147668, third = 715827883;
    const int32_t x = a + (1 << 28);
    const int32_t x2 = nn_high_product(x, x);
    const int32_t x3 = nn_high_product(x2, x);
    const int32_t x4_over_4 = nn_divide_by_power_of_two(nn_high_product(x2, x2), 2);
    const int32_t tail = nn_divide_by_power_of_two(nn_high_product(x4_over_4 + x3, third) + x2, 1);
    return exp_minus_eighth + nn_high_product(exp_minus_eighth, x + tail);
}

/* exp(a) for a <= 0: Q5.26 to Q0.31. */
static int32_t exp_of_negative(int32_t a)
{
    /* exp(-2^k) for k = -2 ... 4 */
    static const int32_t factor[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int32_t quarter = 1 << 24;
    const int32_t within = (a & (quarter - 1)) - quarter;
    const int32_t remainder = within - a;
    int32_t result = exp_near_zero(within * (1 << 5));
    if (a == 0) {
        return INT32_MAX;
    }
    for (int32_t k = 0; k < 7; k++) {
        if (remainder & (int32_t)((uint32_t)quarter << k)) {
            result = nn_high_product(result, factor[k]);
        }
    }
    return result;
}

/* 1 / (1 + x) for x in [0, 1], Q0.31: three Newton steps. */
static int32_t reciprocal_of_one_plus(int32_t x)
{
    const int32_t half_denominator = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2);
    int32_t y = 1515870810 + nn_high_product(half_denominator, -1010580540); /* 48/17 - 32/17 d, Q2.29 */
    for (int32_t step = 0; step < 3; step++) {
        const int32_t error = (1 << 29) - nn_high_product(half_denominator, y);
        y += shift_left_saturating(nn_high_product(y, error), 2);
    }
    return shift_left_saturating(y, 1);
}

void nn_softmax(const nn_softmax_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t row = 0; row < p->rows; row++, input += p->width, output += p->width) {
        int32_t largest = INT8_MIN;
        for (int32_t i = 0; i < p->width; i++) {
            largest = nn_larger(largest, input[i]);
        }
        int32_t sum = 0; /* Q12.19 */
        for (int32_t i = 0; i < p->width; i++) {
            const int32_t difference = input[i] - largest;
            if (difference >= p->smallest_difference) {
                const int32_t scaled = nn_high_product((int32_t)((uint32_t)difference << p->shift), p->multiplier);
                sum += nn_divide_by_power_of_two(exp_of_negative(scaled), 12);
            }
        }
        int32_t headroom = 0;
        while (((uint32_t)sum << headroom) < 0x80000000u) {
            headroom++;
        }
        const int32_t scale = reciprocal_of_one_plus((int32_t)(((uint32_t)sum << headroom) - 0x80000000u));
        for (int32_t i = 0; i < p->width; i++) {
            const int32_t difference = input[i] - largest;
            int32_t value = 0;
            if (difference >= p->smallest_difference) {
                const int32_t scaled = nn_high_product((int32_t)((uint32_t)difference << p->shift), p->multiplier);
                const int32_t product = nn_high_product(scale, exp_of_negative(scaled));
                value = nn_divide_by_power_of_two(product, 12 - headroom + 31 - 8);
            }
            output[i] = nn_clamp(value - 128, INT8_MIN, INT8_MAX);
        }
    }
}
