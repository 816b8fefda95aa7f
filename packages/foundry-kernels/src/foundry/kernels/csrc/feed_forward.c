/* A feed-forward network on few rows, in fp32: y = W_down f(W_up x), or W_down (f(W_gate x) * (W_up x)).
 *
 * x, y (R, C), W_gate, W_up (F, C), W_down (C, F), all contiguous. */

#include <math.h>
#include <stdlib.h>

#include "few_rows.h"
#include "vector.h"

/* In the order of whole_layers.NONLINEARITIES. */
typedef enum { SILU, SIGMOID, GELU, GELU_TANH, RELU, RELU2 } Nonlinearity;

typedef struct {
    const float *x;
    Layer up, down, gate; /* gate.weight may be null */
    float *y;
    long rows, size, hidden, nonlinearity;
} FeedForward;

/* 1 / (1 + e^-x); the exponential is only known below 0. */
static inline Vector sigmoid(Vector x)
{
    const Integers negative = x < 0;
    const Vector e = exponential(either(negative, x, -x));
    return either(negative, e, (Vector){0} + 1.0f) / (1.0f + e);
}

static inline Vector f(Vector x, Nonlinearity kind)
{
    const float sqrt_8_over_pi = 1.59576912f, sqrt_half = 0.707106781f;
    const Vector positive = either(x < 0, (Vector){0}, x); /* NaN stays NaN */
    Vector y;
    switch (kind) {
    case SILU:
        return x * sigmoid(x);
    case SIGMOID:
        return sigmoid(x);
    case GELU_TANH: /* (1 + tanh u) / 2 = sigmoid(2 u) */
        return x * sigmoid(sqrt_8_over_pi * (x + 0.044715f * x * x * x));
    case GELU:
        for (int i = 0; i < WIDTH; i++)
            y[i] = 0.5f * x[i] * erfcf(-sqrt_half * x[i]);
        return y;
    case RELU:
        return positive;
    default:
        return positive * positive;
    }
}

/* up <- f(gate) * up, or f(up) */
static void activate(const float *gate, float *up, long n, Nonlinearity kind)
{
    for (long i = 0; i < n; i += WIDTH) {
        const size_t bytes = (n - i < WIDTH ? n - i : WIDTH) * sizeof(float);
        Vector a = {0}, b = {0};
        memcpy(&b, up + i, bytes);
        if (gate) {
            memcpy(&a, gate + i, bytes);
            b *= f(a, kind);
        } else {
            b = f(b, kind);
        }
        memcpy(up + i, &b, bytes);
    }
}

/* 0, or 1 where there is no memory. */
int feed_forward(const FeedForward *s, int threads)
{
    const long n = s->rows * s->hidden;
    float *up = malloc((s->gate.weight ? 2 : 1) * n * sizeof(float)), *gate = s->gate.weight ? up + n : NULL;
    if (!up)
        return 1;
    if (gate)
        linear(s->x, s->gate.weight, s->gate.bias, gate, s->rows, s->size, s->hidden, threads);
    linear(s->x, s->up.weight, s->up.bias, up, s->rows, s->size, s->hidden, threads);
    activate(gate, up, n, (Nonlinearity)s->nonlinearity);
    linear(up, s->down.weight, s->down.bias, s->y, s->rows, s->hidden, s->size, threads);
    free(up);
    return 0;
}
