/* Patches of the input as columns, and the order of taps in which they are multiplied with packed weights.
 *
 * Taps come in fours a b c d. Packed weights: a word for two channels and two taps, bytes (first a, second a, first c,
 * second c), then (b, d). A column is read in that order too, a c b d:
 * - 16-bit lanes, NN_PIXELS columns side by side: word 0 holds (a, c), word 1 (b, d), which is how sxtb16 takes four
 *   bytes apart. Word i of pixel p lies at [i * pixels + p].
 * - Helium: bytes, one column after the other. */
#ifndef NN_COLUMNS_H
#define NN_COLUMNS_H

#include "nn_dsp.h"
#include "nn_mve.h"

#define NN_PIXELS 4

#if NN_MVE
typedef int8_t nn_column;

/* Where the column of a pixel begins. */
static inline nn_column *nn_column_of(nn_column *columns, int32_t pixel, int32_t words)
{
    return columns + 2 * words * pixel;
}

/* `count` input bytes (a multiple of four); gives where the next ones go. */
static inline nn_column *nn_spread(nn_column *column, int32_t pixels, const int8_t *from, int32_t count)
{
    (void)pixels;
    const int aligned = (uintptr_t)from % 4 == 0; /* as the interleaving loads want it */
    for (; aligned && count >= 32; count -= 32, from += 32, column += 32) {
        const uint8x16x2_t bytes = vld2q_u8((const uint8_t *)from); /* a c ..., b d ... */
        const uint16x8x2_t pairs = {{vreinterpretq_u16_u8(bytes.val[0]), vreinterpretq_u16_u8(bytes.val[1])}};
        vst2q_u16((uint16_t *)(void *)column, pairs);
    }
    static const uint8_t order[16] = {0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15};
    const uint8x16_t at = vldrbq_u8(order);
    for (; count > 0; count -= 16, from += 16, column += 16) {
        const mve_pred16_t lanes = vctp8q((uint32_t)count);
        vstrbq_p_s8(column, vldrbq_gather_offset_z_s8(from, at, lanes), lanes);
    }
    return column + nn_smaller(count, 0);
}

/* As nn_spread, of a byte that stands everywhere. */
static inline nn_column *nn_fill(nn_column *column, int32_t pixels, int32_t value, int32_t count)
{
    const int8x16_t bytes = vdupq_n_s8((int8_t)value);
    (void)pixels;
    for (int32_t rest = count; rest > 0; rest -= 16) {
        vstrbq_p_s8(column + count - rest, bytes, vctp8q((uint32_t)rest));
    }
    return column + count;
}
#else
typedef uint32_t nn_column;

static inline nn_column *nn_column_of(nn_column *columns, int32_t pixel, int32_t words)
{
    (void)words;
    return columns + pixel;
}

static inline nn_column *nn_spread(nn_column *column, int32_t pixels, const int8_t *from, int32_t count)
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

static inline nn_column *nn_fill(nn_column *column, int32_t pixels, int32_t value, int32_t count)
{
    const uint32_t lanes = (uint16_t)value | (uint32_t)(uint16_t)value << 16;
    for (; count > 0; count -= 2, column += pixels) {
        *column = lanes;
    }
    return column;
}
#endif

#endif
