/* Patches of the input as columns of 16-bit lanes, NN_PIXELS side by side, and their products with packed weights.
 *
 * A column's taps come in fours a b c d: word 0 holds the lanes (a, c), word 1 (b, d), which is how sxtb16 takes four
 * bytes apart. Word i of pixel p lies at [i * pixels + p].
 * Packed weights: a word for two channels and two taps, bytes (first a, second a, first c, second c), then (b, d). */
#ifndef NN_COLUMNS_H
#define NN_COLUMNS_H

#include "nn_dsp.h"

#define NN_PIXELS 4

/* `count` input bytes (a multiple of four) as words `pixels` apart; gives where the next ones go. */
static inline uint32_t *nn_spread(uint32_t *column, int32_t pixels, const int8_t *from, int32_t count)
{
#if NN_DSP
#pragma GCC unroll 4
#endif
    for (const int8_t *end = from + count; from != end; from += 4, column += 2 * pixels) {
        const uint32_t word = nn_four_bytes(from);
        column[0] = nn_even_bytes(word);
        column[pixels] = nn_odd_bytes(word);
    }
    return column;
}

#endif
