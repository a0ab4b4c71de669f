#include "nn_cmsis.h"

#include "arm_nnfunctions.h"

void nn_cmsis_conv_2d(const nn_cmsis_params *p, const int8_t *input, int8_t *output, void *scratch)
{
    const cmsis_nn_context context = {scratch, p->scratch_bytes};
    /* it takes them as variables, and only reads them */
    const cmsis_nn_per_channel_quant_params scales = {(int32_t *)(uintptr_t)p->multiplier,
                                                      (int32_t *)(uintptr_t)p->shift};
    const cmsis_nn_dims filter = {p->out_c, p->kernel_h, p->kernel_w, p->in_c};
    const cmsis_nn_dims bias = {1, 1, 1, p->out_c};
    for (int32_t y = 0; y < p->out_h; y += p->band) {
        const int32_t rows = nn_smaller(p->band, p->out_h - y);
        const nn_cmsis_rows from = nn_cmsis_read(p, y, rows);
        const cmsis_nn_conv_params how = {
            p->input_offset, p->output_offset, {p->stride_w, p->stride_h}, {p->pad_w, from.pad},
            {p->dilation_w, p->dilation_h}, {p->activation_min, p->activation_max}};
        const cmsis_nn_dims in = {p->batches, from.rows, p->in_w, p->in_c};
        const cmsis_nn_dims out = {p->batches, rows, p->out_w, p->out_c};
        (void)arm_convolve_wrapper_s8(&context, &how, &scales, &in, input + from.first * p->in_w * p->in_c,
                                      &filter, p->weights, &bias, p->bias, &out, output + y * p->out_w * p->out_c);
    }
}
