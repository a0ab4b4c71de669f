#include "nn_dsp.h"
#include "nn_mve.h"

/* The part of a window that lies inside the image, for channel 0: its first input and weight, and bytes between rows and
 * taps of the input. Weights of neighbouring taps are `channels` apart. */
typedef struct {
    const int8_t *input, *weights;
    int32_t rows, taps, row_step, tap_step, row_weights, channels;
} window;

#if NN_MVE
/* Up to eight channels of one pixel: the sums of the even ones and of the odd ones. */
static inline void convolve(const nn_depthwise_params *p, const window *w, int32_t c, int8_t *output)
{
    const uint32_t count = (uint32_t)(w->channels - c);
    const mve_pred16_t lanes = vctp16q(count), evens = vctp32q((count + 1) / 2), odds = vctp32q(count / 2);
    const uint32x4_t at = vidupq_n_u32(0, 2);
    int32x4_t even = vldrwq_gather_shifted_offset_z_s32(p->bias + c, at, evens);
    int32x4_t odd = vldrwq_gather_shifted_offset_z_s32(p->bias + c + 1, at, odds);
    const int8_t *row = w->input + c, *row_weights = w->weights + c;
    for (int32_t i = w->rows; i > 0; i--, row += w->row_step, row_weights += w->row_weights) {
        const int8_t *from = row, *weight = row_weights;
        for (int32_t j = w->taps; j > 0; j--, from += w->tap_step, weight += w->channels) {
            const int16x8_t x = vaddq_n_s16(vldrbq_z_s16(from, lanes), (int16_t)p->input_offset);
            const int16x8_t y = vldrbq_z_s16(weight, lanes);
            even = vaddq_s32(even, vmullbq_int_s16(x, y));
            odd = vaddq_s32(odd, vmulltq_int_s16(x, y));
        }
    }
    even = nn_requantize_packed_lanes(even, vldrwq_gather_shifted_offset_z_s32(p->multiplier + c, at, evens),
                                      vldrbq_gather_offset_z_s32(p->halvings + c, at, evens));
    odd = nn_requantize_packed_lanes(odd, vldrwq_gather_shifted_offset_z_s32(p->multiplier + c + 1, at, odds),
                                     vldrbq_gather_offset_z_s32(p->halvings + c + 1, at, odds));
    even = nn_clamp_lanes(vaddq_n_s32(even, p->output_offset), p->activation_min, p->activation_max);
    odd = nn_clamp_lanes(vaddq_n_s32(odd, p->output_offset), p->activation_min, p->activation_max);
    const int16x8_t both = vmovntq_s32(vmovnbq_s32(vdupq_n_s16(0), even), odd);
    vstrbq_p_s16(output + c, both, lanes);
}
#define NN_CHANNELS 8
#else
typedef struct {
    int32_t s0, s1, s2, s3;
} fours;

/* One tap of four channels. */
static inline fours add_tap(fours sum, const int8_t *from, const int8_t *weight, uint32_t offset)
{
    const uint32_t x = nn_four_bytes(from), w = nn_four_bytes(weight);
    const uint32_t x_even = nn_even_bytes_plus(offset, x), w_even = nn_even_bytes(w);
    const uint32_t x_odd = nn_odd_bytes_plus(offset, x), w_odd = nn_odd_bytes(w);
    sum.s0 = nn_low_product(x_even, w_even, sum.s0);
    sum.s1 = nn_low_product(x_odd, w_odd, sum.s1);
    sum.s2 = nn_high_lanes_product(x_even, w_even, sum.s2);
    sum.s3 = nn_high_lanes_product(x_odd, w_odd, sum.s3);
    return sum;
}

static NN_ALL_REGISTERS void sum_taps(const window *w, int32_t c, uint32_t offset, fours *sums)
{
    const int8_t *input = w->input + c, *weights = w->weights + c;
    const int32_t step = w->tap_step, channels = w->channels, taps = w->taps;
    fours sum = *sums;
    for (int32_t row = w->rows; row > 0; row--, input += w->row_step, weights += w->row_weights) {
        if (taps == 3) {
            sum = add_tap(sum, input, weights, offset);
            sum = add_tap(sum, input + step, weights + channels, offset);
            sum = add_tap(sum, input + 2 * step, weights + 2 * channels, offset);
            continue;
        }
        for (int32_t tap = 0; tap < taps; tap++) {
            sum = add_tap(sum, input + tap * step, weights + tap * channels, offset);
        }
    }
    *sums = sum;
}

/* Four channels of one pixel. */
static inline void convolve(const nn_depthwise_params *p, const window *w, int32_t c, int8_t *output)
{
    const uint32_t offset = (uint16_t)p->input_offset | (uint32_t)(uint16_t)p->input_offset << 16;
    fours sums = {p->bias[c], p->bias[c + 1], p->bias[c + 2], p->bias[c + 3]};
    sum_taps(w, c, offset, &sums);
    const int32_t *sum = &sums.s0;
    for (int32_t k = c; k < c + 4; k++) {
        const int32_t value = nn_requantize_packed(*sum++, p->multiplier[k], p->halvings[k]);
        output[k] = nn_clamp(value + p->output_offset, p->activation_min, p->activation_max);
    }
}
#define NN_CHANNELS 4
#endif

void nn_depthwise_conv_2d_fours(const nn_depthwise_params *params, const int8_t *input, int8_t *output)
{
    const nn_depthwise_params copy = *params, *const p = &copy; /* bytes that are written cannot change it */
    const int32_t channels = p->out_c, line = p->in_w * channels;
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in_h * line) {
        for (int32_t y = 0; y < p->out_h; y++) {
            const int32_t top = y * p->stride_h - p->pad_h;
            const int32_t row = nn_first_tap(top, p->dilation_h);
            const int32_t rows = nn_end_tap(top, p->dilation_h, p->kernel_h, p->in_h) - row;
            for (int32_t x = 0; x < p->out_w; x++, output += channels) {
                const int32_t left = x * p->stride_w - p->pad_w;
                const int32_t tap = nn_first_tap(left, p->dilation_w);
                const int32_t taps = nn_end_tap(left, p->dilation_w, p->kernel_w, p->in_w) - tap;
                const int inside = rows > 0 && taps > 0;
                const int32_t from = (top + row * p->dilation_h) * line + (left + tap * p->dilation_w) * channels;
                const window w = {input + (inside ? from : 0),
                                  p->weights + (inside ? (row * p->kernel_w + tap) * channels : 0),
                                  inside ? rows : 0,
                                  taps,
                                  p->dilation_h * line,
                                  p->dilation_w * channels,
                                  p->kernel_w * channels,
                                  channels};
                for (int32_t c = 0; c < channels; c += NN_CHANNELS) {
                    convolve(p, &w, c, output);
                }
            }
        }
    }
}
