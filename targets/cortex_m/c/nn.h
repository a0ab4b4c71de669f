/* int8 kernels with the arithmetic of TFLite Micro's reference kernels, byte for byte. C99, also valid C++.
 * No heap, no recursion, no state. Right shifts of negative numbers are arithmetic, as on every Arm and x86 compiler. */
#ifndef NN_H
#define NN_H

#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NHWC. Weights [h][w][out]. `bias` may be NULL.
 * multiplier and shift: one an output channel. */
typedef struct {
    int32_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
    int32_t input_offset, output_offset, activation_min, activation_max;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int8_t *shift;
} nn_conv_params;

/* For the packed kernels (nn_columns.h): channels in pairs, taps in fours, both filled up with zeros. `bias` holds the
 * input's offset too; `outside`, the input's zero point, stands where a patch leaves the image. `halvings`: see
 * nn_requantize_packed. */
typedef struct {
    int32_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
    int32_t outside, output_offset, activation_min, activation_max, words;
    const uint32_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int8_t *halvings;
} nn_packed_conv_params;

/* For nn_depthwise_conv_2d_fours; `halvings` as above. */
typedef struct {
    int32_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
    int32_t input_offset, output_offset, activation_min, activation_max;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int8_t *halvings;
} nn_depthwise_params;

typedef struct {
    int32_t batches, in, out, output_offset, activation_min, activation_max, words;
    const uint32_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int8_t *halvings;
} nn_packed_fully_connected_params;

typedef struct {
    int32_t batches, in_h, in_w, channels, out_h, out_w;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, activation_min, activation_max;
} nn_pool_params;

typedef struct {
    int32_t count, offset_a, multiplier_a, shift_a, offset_b, multiplier_b, shift_b;
    int32_t output_offset, multiplier, shift, activation_min, activation_max;
} nn_add_params;

typedef struct {
    int32_t count, offset_a, offset_b, output_offset, multiplier, shift, activation_min, activation_max;
} nn_mul_params;

typedef struct {
    int32_t count, input_offset, multiplier, shift, output_offset, activation_min, activation_max;
} nn_rescale_params;

/* Up to four axes; kept: extents of the output, 1 for a reduced axis; reduced: the other way round. */
typedef struct {
    int32_t kept[4], reduced[4], stride[4];
    int32_t input_sum_offset, multiplier, shift, output_offset;
} nn_mean_params;

typedef struct {
    int32_t in[4], out[4], before[4], value;
} nn_pad_params;

/* The output, dense, is read from `start` on, `step` numbers apart along each axis. */
typedef struct {
    int32_t start, extent[4], step[4];
} nn_copy_params;

/* Of each plane, the rows and columns that are listed. */
typedef struct {
    int32_t planes, plane_bytes, row_bytes, column_bytes, out_rows, out_columns;
    const int32_t *rows, *columns;
} nn_pick_params;

/* `rows` pieces of `bytes`, `pitch` apart in the output. */
typedef struct {
    int32_t rows, bytes, pitch, offset;
} nn_concat_params;

typedef struct {
    int32_t rows, width, multiplier, shift, smallest_difference;
} nn_softmax_params;

/* `table[(uint8_t)code]`: the output for a code. */
typedef struct {
    int32_t count;
    const int8_t *table;
} nn_lookup_params;

typedef struct {
    int32_t count, sign; /* 1: the larger, -1: the smaller */
} nn_extreme_params;

/* Extents of the output, and how far apart its neighbours' operands lie: 0 where one is broadcast. */
typedef struct {
    int32_t extent[4], step_a[4], step_b[4];
} nn_walk;

typedef struct {
    nn_add_params op; /* without its count, as in the next two */
    nn_walk walk;
} nn_broadcast_add_params;

typedef struct {
    nn_mul_params op;
    nn_walk walk;
} nn_broadcast_mul_params;

typedef struct {
    nn_extreme_params op;
    nn_walk walk;
} nn_broadcast_extreme_params;

/* rows x depth times depth x columns, for each batch; row_a: numbers between neighbouring rows of a, and so on. */
typedef struct {
    int32_t batches[3], step_a[3], step_b[3], rows, columns, depth, row_a, depth_a, depth_b, column_b;
    int32_t offset_a, offset_b, output_offset, multiplier, shift, activation_min, activation_max;
} nn_matmul_params;

/* NHWC. Weights [out][h][w][in / groups]. `bias` may be NULL. */
typedef struct {
    int32_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
    int32_t input_offset, output_offset, activation_min, activation_max, groups;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int8_t *shift;
} nn_grouped_conv_params;

void nn_depthwise_conv_2d(const nn_conv_params *p, const int8_t *input, int8_t *output);
/* As many channels out as in, in fours. */
void nn_depthwise_conv_2d_fours(const nn_depthwise_params *p, const int8_t *input, int8_t *output);
void nn_conv_2d_packed(const nn_packed_conv_params *p, const int8_t *input, int8_t *output, void *scratch);
void nn_fully_connected_packed(const nn_packed_fully_connected_params *p, const int8_t *input, int8_t *output,
                               void *scratch);
void nn_average_pool_2d(const nn_pool_params *p, const int8_t *input, int8_t *output);
void nn_max_pool_2d(const nn_pool_params *p, const int8_t *input, int8_t *output);
void nn_mean(const nn_mean_params *p, const int8_t *input, int8_t *output);
void nn_pad(const nn_pad_params *p, const int8_t *input, int8_t *output);
void nn_copy(const nn_copy_params *p, const int8_t *input, int8_t *output);
void nn_pick(const nn_pick_params *p, const int8_t *input, int8_t *output);
void nn_concat(const nn_concat_params *p, const int8_t *input, int8_t *output);
void nn_matmul(const nn_matmul_params *p, const int8_t *a, const int8_t *b, int8_t *output);
/* Weights [out][h][w][in]; the padding is that of the convolution that it turns round. */
void nn_transpose_conv(const nn_conv_params *p, const int8_t *input, int8_t *output);
void nn_conv_2d_grouped(const nn_grouped_conv_params *p, const int8_t *input, int8_t *output);
/* These may run in place: output == an input of its size. */
void nn_add(const nn_add_params *p, const int8_t *a, const int8_t *b, int8_t *output);
void nn_mul(const nn_mul_params *p, const int8_t *a, const int8_t *b, int8_t *output);
void nn_rescale(const nn_rescale_params *p, const int8_t *input, int8_t *output);
void nn_softmax(const nn_softmax_params *p, const int8_t *input, int8_t *output);
void nn_lookup(const nn_lookup_params *p, const int8_t *input, int8_t *output);
void nn_add_broadcast(const nn_broadcast_add_params *p, const int8_t *a, const int8_t *b, int8_t *output);
void nn_sub(const nn_broadcast_add_params *p, const int8_t *a, const int8_t *b, int8_t *output);
void nn_squared_difference(const nn_broadcast_add_params *p, const int8_t *a, const int8_t *b, int8_t *output);
void nn_mul_broadcast(const nn_broadcast_mul_params *p, const int8_t *a, const int8_t *b, int8_t *output);
void nn_extreme(const nn_broadcast_extreme_params *p, const int8_t *a, const int8_t *b, int8_t *output);

static inline int32_t nn_smaller(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t nn_larger(int32_t a, int32_t b) { return a > b ? a : b; }

static inline int8_t nn_clamp(int32_t value, int32_t low, int32_t high)
{
    return (int8_t)nn_smaller(nn_larger(value, low), high);
}

/* First tap whose position `start + tap * dilation` is not negative, and the one after the last that is below `size`. */
static inline int32_t nn_first_tap(int32_t start, int32_t dilation)
{
    return start >= 0 ? 0 : (-start + dilation - 1) / dilation;
}

static inline int32_t nn_end_tap(int32_t start, int32_t dilation, int32_t taps, int32_t size)
{
    return start >= size ? 0 : nn_smaller(taps, (size - start + dilation - 1) / dilation);
}

/* a * b / 2^31, rounded half up: gemmlowp's SaturatingRoundingDoublingHighMul. */
static inline int32_t nn_high_product(int32_t a, int32_t b)
{
    if (a == INT32_MIN && b == INT32_MIN) {
        return INT32_MAX;
    }
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* value / 2^exponent, rounded half away from zero; exponent 0 to 31. */
static inline int32_t nn_divide_by_power_of_two(int32_t value, int32_t exponent)
{
    const int32_t mask = (int32_t)(((uint32_t)1 << exponent) - 1u);
    const int32_t threshold = (mask >> 1) + (value < 0 ? 1 : 0);
    return (value >> exponent) + ((value & mask) > threshold ? 1 : 0);
}

/* value * multiplier / 2^31 * 2^shift with TFLite Micro's two roundings. */
static inline int32_t nn_requantize(int32_t value, int32_t multiplier, int32_t shift)
{
    const int32_t left = shift > 0 ? shift : 0;
    const int32_t right = shift > 0 ? 0 : -shift;
    return nn_divide_by_power_of_two(nn_high_product((int32_t)((uint32_t)value << left), multiplier), right);
}

#ifdef __cplusplus
}
#endif

#endif
