/* Attention of one new token per text, from the cache, in fp32: its key is rotated and kept with its value, its query is
 * rotated and sees every key so far that is not padding, y = softmax(q k^T / sqrt(D)) v.
 *
 * q, y (B, H, D), k, v (B, G, D), all contiguous; keys, values (B, G, M, D), of which `length` are filled. Each of the G
 * heads serves H / G consecutive query heads, and is one thread's work from beginning to end. D is a multiple of WIDTH
 * and at most LARGEST. */

#include <math.h>
#include <omp.h>

#include "vector.h"

enum { LARGEST = 256, BLOCK = 64, WORTH_A_THREAD = 1 << 16 /* multiply-adds */ };

typedef struct {
    const float *q, *k, *v;
    const float *cos, *sin;    /* (B or 1, D) as in position rope, or null */
    const unsigned char *real; /* (B, length + 1), rows `real_row` apart: not padding; or null */
    float *keys, *values, *y;
    long batch, n_head, n_kv_head, size, max_len, length, cos_row, real_row;
} Next;

/* x cos + (x, rolled by half) sin, times `factor`. */
static void rotate(float *to, const float *x, const float *cos, const float *sin, long size, float factor)
{
    const long half = size / 2;
    for (long i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        to[i] = factor * (cos ? a * cos[i] + b * sin[i] : a);
        to[i + half] = factor * (cos ? b * cos[i + half] + a * sin[i + half] : b);
    }
}

static inline float dot(const float *a, const float *b, long size)
{
    Vector sum = {0};
    for (long i = 0; i < size; i += WIDTH)
        sum += load(a + i) * load(b + i);
    return sum_of(sum);
}

/* One query over all keys, BLOCK of them at a time: the largest score so far is subtracted from all. */
static void weigh(const Next *s, const float *query, const float *keys, const float *values, const unsigned char *real,
                  float *y)
{
    const float hidden = -1e30f;
    float largest = hidden, sum = 0.0f, weights[BLOCK];
    for (long i = 0; i < s->size; i++)
        y[i] = 0.0f;
    for (long start = 0; start <= s->length; start += BLOCK) {
        const long n = s->length + 1 - start < BLOCK ? s->length + 1 - start : BLOCK;
        float before = largest;
        for (long t = 0; t < n; t++) {
            const int seen = !real || real[start + t] || start + t == s->length;
            weights[t] = seen ? dot(query, keys + (start + t) * s->size, s->size) : hidden;
            largest = weights[t] > largest ? weights[t] : largest;
        }
        for (long t = n; t < BLOCK; t++)
            weights[t] = hidden;
        Vector sums = {0};
        for (long t = 0; t < BLOCK; t += WIDTH) {
            const Vector weight = exponential(load(weights + t) - largest);
            memcpy(weights + t, &weight, sizeof weight);
            sums += weight;
        }
        before = exponential((Vector){0} + (before - largest))[0];
        sum = sum * before + sum_of(sums);
        for (long i = 0; i < s->size; i += WIDTH) {
            Vector total[4] = {load(y + i) * before};
            const float *value = values + start * s->size + i;
            long t = 0;
            for (; t + 4 <= n; t += 4)
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++)
                    total[j] += weights[t + j] * load(value + (t + j) * s->size);
            for (; t < n; t++)
                total[0] += weights[t] * load(value + t * s->size);
            total[0] = (total[0] + total[1]) + (total[2] + total[3]);
            memcpy(y + i, total, sizeof *total);
        }
    }
    for (long i = 0; i < s->size; i++)
        y[i] /= sum;
}

static void one_head(const Next *s, long row, long head)
{
    const long size = s->size, each = s->n_head / s->n_kv_head, from = row * s->n_kv_head + head;
    float *keys = s->keys + from * s->max_len * size, *values = s->values + from * s->max_len * size;
    const float *cos = s->cos ? s->cos + row * s->cos_row : 0, *sin = s->cos ? s->sin + row * s->cos_row : 0;
    rotate(keys + s->length * size, s->k + from * size, cos, sin, size, 1.0f);
    memcpy(values + s->length * size, s->v + from * size, size * sizeof(float));
    for (long i = 0; i < each; i++) {
        const long at = (row * s->n_head + head * each + i) * size;
        float query[LARGEST];
        rotate(query, s->q + at, cos, sin, size, 1.0f / sqrtf((float)size));
        weigh(s, query, keys, values, s->real ? s->real + row * s->real_row : 0, s->y + at);
    }
}

void next_token(const Next *s, int threads)
{
    const long worth = s->batch * s->n_head * s->length * s->size / WORTH_A_THREAD;
    threads = worth < threads ? (int)worth : threads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long task = 0; task < s->batch * s->n_kv_head; task++)
        one_head(s, task / s->n_kv_head, task % s->n_kv_head);
}
