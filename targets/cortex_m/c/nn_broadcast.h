/* The walk of ops of two operands of different shapes. */
#ifndef NN_BROADCAST_H
#define NN_BROADCAST_H

#include "nn.h"

typedef int8_t (*nn_pair_function)(const void *params, int32_t a, int32_t b);

/* Inlined together with the function, so that nothing is called through the pointer. */
static inline void nn_each_pair(const nn_walk *w, const int8_t *a, const int8_t *b, int8_t *output,
                                nn_pair_function function, const void *params)
{
    for (int32_t i = 0; i < w->extent[0]; i++) {
        for (int32_t j = 0; j < w->extent[1]; j++) {
            for (int32_t k = 0; k < w->extent[2]; k++) {
                const int8_t *from_a = a + i * w->step_a[0] + j * w->step_a[1] + k * w->step_a[2];
                const int8_t *from_b = b + i * w->step_b[0] + j * w->step_b[1] + k * w->step_b[2];
                for (int32_t l = w->extent[3]; l > 0; l--, from_a += w->step_a[3], from_b += w->step_b[3]) {
                    *output++ = function(params, *from_a, *from_b);
                }
            }
        }
    }
}

/* An operand with `left` bits below the point, on the scale that both share. */
static inline int32_t nn_operand(int32_t code, int32_t left, int32_t multiplier, int32_t shift)
{
    return nn_requantize(code * ((int32_t)1 << left), multiplier, shift);
}

#endif
