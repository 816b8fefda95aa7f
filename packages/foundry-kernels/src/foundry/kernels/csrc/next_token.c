/* An attention layer for one new token per text, in fp32: it is projected to query, key and value, query and key are
 * normalised and rotated, key and value are kept in the cache, the query sees every key so far that is not padding, and
 * what it sees is projected back: y = W_o softmax(q k^T factor) v.
 *
 * x, y (B, C), contiguous; keys, values (B, G, M, D), of which `length` are filled. Each of the G heads serves H / G
 * consecutive query heads, and is one thread's work. D is a multiple of WIDTH and at most LARGEST. */

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "few_rows.h"
#include "vector.h"

enum { LARGEST = 256, BLOCK = 64, WORTH_A_THREAD = 1 << 16 /* multiply-adds */ };

typedef struct {
    const float *x;
    Layer q_proj, k_proj, v_proj, o_proj;
    const float *q_norm, *k_norm; /* RMS norms' weights, (D), or (H D) and (G D): over all heads at once; or null */
    const float *value;           /* (B, G D), added to the values; or null */
    const float *cos, *sin;       /* (B or 1, rotary) as in position rope, rows `cos_row` apart; not read if rotary is 0 */
    const unsigned char *real;    /* (B, length + 1), rows `real_row` apart: not padding; or null */
    float *keys, *values, *y;
    long batch, width, n_head, n_kv_head, size, max_len, length, rotary, cos_row, real_row, norms_all_heads;
    float factor, eps;
} Next;

/* What lies between the projections. */
typedef struct {
    float *q, *k, *v, *y; /* (B, H D), (B, G D), (B, G D), (B, H D) */
} Heads;

/* x cos + (x, rolled by half) sin for the first `rotary` entries of x, times `factor`; the others keep their place. */
static void rotate(const Next *s, float *to, const float *x, long row, float factor)
{
    const float *cos = s->cos + row * s->cos_row, *sin = s->sin + row * s->cos_row;
    const long half = s->rotary / 2;
    for (long i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        to[i] = factor * (a * cos[i] + b * sin[i]);
        to[i + half] = factor * (b * cos[i + half] + a * sin[i + half]);
    }
    for (long i = 2 * half; i < s->size; i++)
        to[i] = factor * x[i];
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

static void one_head(const Next *s, const Heads *heads, long row, long head)
{
    const long size = s->size, each = s->n_head / s->n_kv_head, from = row * s->n_kv_head + head;
    float *keys = s->keys + from * s->max_len * size, *values = s->values + from * s->max_len * size;
    rotate(s, keys + s->length * size, heads->k + from * size, row, 1.0f);
    memcpy(values + s->length * size, heads->v + from * size, size * sizeof(float));
    for (long i = 0; i < each; i++) {
        const long at = (row * s->n_head + head * each + i) * size;
        float query[LARGEST];
        rotate(s, query, heads->q + at, row, s->factor);
        weigh(s, query, keys, values, s->real ? s->real + row * s->real_row : 0, heads->y + at);
    }
}

static void project(const Next *s, const Heads *heads, int threads)
{
    const long queries = s->n_head * s->size, keys = s->n_kv_head * s->size;
    linear(s->x, s->q_proj.weight, s->q_proj.bias, heads->q, s->batch, s->width, queries, threads);
    linear(s->x, s->k_proj.weight, s->k_proj.bias, heads->k, s->batch, s->width, keys, threads);
    linear(s->x, s->v_proj.weight, s->v_proj.bias, heads->v, s->batch, s->width, keys, threads);
    if (s->q_norm) {
        const long q_size = s->norms_all_heads ? queries : s->size, k_size = s->norms_all_heads ? keys : s->size;
        rms_norm(heads->q, s->q_norm, heads->q, s->batch * queries / q_size, q_size, s->eps);
        rms_norm(heads->k, s->k_norm, heads->k, s->batch * keys / k_size, k_size, s->eps);
    }
    if (s->value)
        for (long i = 0; i < s->batch * keys; i++)
            heads->v[i] += s->value[i];
}

/* 0, or 1 where there is no memory. */
int next_token(const Next *s, int threads)
{
    const long queries = s->batch * s->n_head * s->size, keys = s->batch * s->n_kv_head * s->size;
    float *q = malloc((2 * queries + 2 * keys) * sizeof(float));
    if (!q)
        return 1;
    const Heads heads = {q, q + queries, q + queries + keys, q + queries + 2 * keys};
    project(s, &heads, threads);
    const long worth = queries * s->length / WORTH_A_THREAD;
    const int useful = worth < threads ? (int)worth : threads;
#pragma omp parallel for num_threads(useful) if (useful > 1)
    for (long task = 0; task < s->batch * s->n_kv_head; task++)
        one_head(s, &heads, task / s->n_kv_head, task % s->n_kv_head);
    linear(heads.y, s->o_proj.weight, s->o_proj.bias, s->y, s->batch, s->n_head * s->size, s->width, threads);
    free(q);
    return 0;
}
