#include "nn.h"

void nn_average_pool_2d(const nn_pool_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in_h * p->in_w * p->channels) {
        for (int32_t y = 0; y < p->out_h; y++) {
            const int32_t top = y * p->stride_h - p->pad_h;
            const int32_t bottom = nn_smaller(top + p->kernel_h, p->in_h);
            for (int32_t x = 0; x < p->out_w; x++) {
                const int32_t left = x * p->stride_w - p->pad_w;
                const int32_t right = nn_smaller(left + p->kernel_w, p->in_w);
                const int32_t count = (bottom - nn_larger(top, 0)) * (right - nn_larger(left, 0));
                for (int32_t c = 0; c < p->channels; c++) {
                    int32_t sum = 0;
                    for (int32_t i = nn_larger(top, 0); i < bottom; i++) {
                        for (int32_t j = nn_larger(left, 0); j < right; j++) {
                            sum += input[(i * p->in_w + j) * p->channels + c];
                        }
                    }
                    const int32_t half = sum > 0 ? count / 2 : -(count / 2); /* half away from zero */
                    *output++ = nn_clamp((sum + half) / count, p->activation_min, p->activation_max);
                }
            }
        }
    }
}
