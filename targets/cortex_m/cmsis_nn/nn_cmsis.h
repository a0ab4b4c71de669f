/* CMSIS-NN's convolutions behind the calls of a generated model. */
#ifndef NN_CMSIS_H
#define NN_CMSIS_H

#include "nn.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
    int32_t input_offset, output_offset, activation_min, activation_max, scratch_bytes;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int32_t *shift;
} nn_cmsis_params;

void nn_cmsis_conv_2d(const nn_cmsis_params *p, const int8_t *input, int8_t *output, void *scratch);
void nn_cmsis_depthwise_conv_2d(const nn_cmsis_params *p, const int8_t *input, int8_t *output, void *scratch);

#ifdef __cplusplus
}
#endif

#endif
