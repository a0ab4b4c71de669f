/* CMSIS-NN's convolutions behind the calls of a generated model. */
#ifndef NN_CMSIS_H
#define NN_CMSIS_H

#include "nn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `band`: rows of the output a call; none but the rows that a band reads is read while it is written, so that an output
 * may lie over the input that is used up. More than one batch is one band. */
typedef struct {
    int32_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
    int32_t input_offset, output_offset, activation_min, activation_max, band, scratch_bytes;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int32_t *shift;
} nn_cmsis_params;

void nn_cmsis_conv_2d(const nn_cmsis_params *p, const int8_t *input, int8_t *output, void *scratch);
void nn_cmsis_depthwise_conv_2d(const nn_cmsis_params *p, const int8_t *input, int8_t *output, void *scratch);

/* The rows of the input that `rows` of the output, from `y` on, read, and the padding above them. */
typedef struct {
    int32_t first, rows, pad;
} nn_cmsis_rows;

static inline nn_cmsis_rows nn_cmsis_read(const nn_cmsis_params *p, int32_t y, int32_t rows)
{
    const int32_t start = y * p->stride_h - p->pad_h;
    const int32_t end = start + (rows - 1) * p->stride_h + (p->kernel_h - 1) * p->dilation_h + 1;
    const int32_t first = nn_smaller(nn_larger(start, 0), p->in_h);
    const nn_cmsis_rows found = {first, nn_larger(nn_smaller(end, p->in_h), first) - first, nn_larger(-start, 0)};
    return found;
}

#ifdef __cplusplus
}
#endif

#endif
