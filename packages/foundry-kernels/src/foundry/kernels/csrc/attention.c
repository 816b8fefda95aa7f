/* Causal attention over whole rows, y = softmax(scale q k^T + causal mask) v, and its gradients, in fp32.
 *
 * q, y (B, H, T, D); k, v (B, G, T, D), each of whose heads serves H / G consecutive query heads; the log of each
 * softmax's denominator, lse (B, H, T), is all that the backward pass needs beside them. A task is one key head of one
 * row, done by one thread from beginning to end: results do not depend on the number of threads. Tiles above the
 * diagonal are not computed. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { WIDTH = 16, ROWS = 8 };
#elif defined(__AVX__)
enum { WIDTH = 8, ROWS = 4 };
#else
enum { WIDTH = 4, ROWS = 4 };
#endif
enum { BLOCK = 64 }; /* queries whose weights are held at a time in the backward pass */

typedef float Vector __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Integers __attribute__((vector_size(4 * WIDTH)));

typedef struct {
    float *data;
    long batch, head, token; /* strides in floats; the last axis is contiguous */
} Heads;

typedef struct {
    long batch, n_head, n_kv_head, length, size; /* B, H, G, T, D */
} Shape;

static inline long round_up(long n, long unit) { return (n + unit - 1) / unit * unit; }

/* Lengths and head sizes that whole vectors and tiles fill. */
static inline long padded_length(Shape s) { return round_up(s.length, WIDTH); }
static inline long padded_size(Shape s) { return round_up(s.size, WIDTH); }

static inline Vector either(Integers condition, Vector yes, Vector no)
{
    return (Vector)((condition & (Integers)yes) | (~condition & (Integers)no));
}

/* e^a for a <= 0 or a little above, within 3e-7 relatively; 2^-126 below a = -87.33; NaN for NaN.
 *
 * a = n ln 2 + r with |r| <= ln(2) / 2; e^r = 1 + r + r^2 p(r), p fitted for the least largest relative error (3e-9). */
static inline Vector exponential(Vector a)
{
    const float round_to_integer = 12582912.0f; /* 1.5 * 2^23: the sum's last bit is worth 1 */
    const Vector least = (Vector){0} - 87.33f;
    a = either(a < least, least, a);
    Vector shifted = a * 1.44269504f + round_to_integer;
    Vector n = shifted - round_to_integer;
    Vector r = (a - n * 0.693145752f) - n * 1.42860677e-6f; /* ln 2 in two parts: the first times n is exact */
    Vector p = r * 0.00138146166f + 0.00836871282f;
    p = p * r + 0.0416683875f;
    p = p * r + 0.166665207f;
    p = p * r + 0.499999935f;
    Vector e_to_r = (p * r) * r + r + 1.0f;
    Integers two_to_n = ((Integers)shifted << 23) + 0x3f800000; /* n is in the low bits of `shifted` */
    return e_to_r * (Vector)two_to_n;
}

/* By halves, which is quicker than one after the other: each step waits for the one before. */
static inline float sum_of(Vector x)
{
#pragma GCC unroll 4
    for (int half = WIDTH / 2; half; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
}

static inline float largest_of(Vector x)
{
#pragma GCC unroll 4
    for (int half = WIDTH / 2; half; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++)
            x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
    return x[0];
}

/* c (ROWS, vectors * WIDTH) = [c +] a b, where a's element (i, k) is at a[i * a_row + k * a_column] and b is row-major.
 * All of c is in registers meanwhile. */
__attribute__((always_inline)) static inline void tile(float *c, long c_row, const float *a, long a_row, long a_column,
                                                       const float *b, long b_row, long inner, const int vectors,
                                                       const int accumulate)
{
    Vector sum[ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[i][v] = accumulate ? *(const Vector *)(c + i * c_row + v * WIDTH) : (Vector){0};
    for (long k = 0; k < inner; k++) {
        Vector from_b[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            from_b[v] = *(const Vector *)(b + k * b_row + v * WIDTH);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                sum[i][v] += a[i * a_row + k * a_column] * from_b[v];
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            *(Vector *)(c + i * c_row + v * WIDTH) = sum[i][v];
}

/* c (ROWS, columns) = [c +] a b; `columns` is a multiple of WIDTH, rows of c and b are aligned to vectors. */
__attribute__((always_inline)) static inline void product(float *c, long c_row, const float *a, long a_row,
                                                          long a_column, const float *b, long b_row, long columns,
                                                          long inner, const int accumulate)
{
    long j = 0;
    for (; j + 2 * WIDTH <= columns; j += 2 * WIDTH)
        tile(c + j, c_row, a, a_row, a_column, b + j, b_row, inner, 2, accumulate);
    if (j < columns)
        tile(c + j, c_row, a, a_row, a_column, b + j, b_row, inner, 1, accumulate);
}

static inline float *head_of(Heads x, long batch, long head) { return x.data + batch * x.batch + head * x.head; }

/* The head's tokens times `factor` in rows of padded_size, zeros around them. */
static void pack(float *restrict to, const float *restrict from, long token, Shape s, float factor)
{
    const long wide = padded_size(s);
    for (long t = 0; t < s.length; t++) {
        for (long d = 0; d < s.size; d++)
            to[t * wide + d] = factor * from[t * token + d];
        for (long d = s.size; d < wide; d++)
            to[t * wide + d] = 0.0f;
    }
    memset(to + s.length * wide, 0, (padded_length(s) - s.length) * wide * sizeof(float));
}

/* The same turned round, a row for each component: (D, padded_length). */
static void pack_turned(float *restrict to, const float *restrict from, long token, Shape s)
{
    const long long_ = padded_length(s);
    for (long first = 0; first < long_; first += WIDTH) {
        const long here = s.length - first < WIDTH ? s.length - first : WIDTH;
        for (long d = 0; d < s.size; d++) {
            Vector row = {0};
            for (long t = 0; t < here; t++)
                row[t] = from[(first + t) * token + d];
            *(Vector *)(to + d * long_ + first) = row;
        }
    }
}

static void unpack(float *to, long token, const float *from, long tokens, Shape s, float factor)
{
    for (long t = 0; t < tokens; t++)
        for (long d = 0; d < s.size; d++)
            to[t * token + d] = factor * from[t * padded_size(s) + d];
}

/* Floats of scratch memory that each thread needs. */
long attention_forward_scratch(Shape s)
{
    return 2 * padded_length(s) * padded_size(s) + padded_length(s) * s.size + ROWS * (padded_length(s) + padded_size(s));
}

long attention_backward_scratch(Shape s)
{
    return 5 * padded_length(s) * padded_size(s) + 2 * padded_length(s) * s.size + 2 * BLOCK * padded_length(s) +
           ROWS * padded_size(s);
}

/* In place: scores of one query -> exp(score - largest) up to itself, zeros beyond. Returns the log of the sum times
 * e^largest, and its inverse without it. */
static inline float softmax_row(float *row, long query, long columns, float *inverse)
{
    for (long j = query + 1; j < columns; j++)
        row[j] = -INFINITY;
    Vector larger = *(Vector *)row, sum = {0};
    for (long j = WIDTH; j < columns; j += WIDTH) {
        Vector x = *(Vector *)(row + j);
        larger = either(x > larger, x, larger);
    }
    const float largest = largest_of(larger);
    for (long j = 0; j < columns; j += WIDTH) {
        Vector x = exponential(*(Vector *)(row + j) - largest); /* beyond the query 1e-38, which no sum notices */
        *(Vector *)(row + j) = x;
        sum += x;
    }
    for (long j = query + 1; j < columns; j++)
        row[j] = 0.0f;
    const float total = sum_of(sum);
    *inverse = 1.0f / total;
    return largest + logf(total);
}

/* In place: scores of one query and dY V^T -> weights, and the scores' gradients. Zeros beyond the query. */
static inline void softmax_row_backward(float *row, float *gradient, long seen, long columns, float log_sum,
                                        float shared)
{
    for (long j = 0; j < seen; j += WIDTH) {
        Vector p = exponential(*(Vector *)(row + j) - log_sum), *ds = (Vector *)(gradient + j);
        *(Vector *)(row + j) = p;
        *ds = p * (*ds - shared);
    }
    for (long j = seen; j < columns; j++)
        row[j] = gradient[j] = 0.0f;
}

static float dot(const float *a, const float *b, long n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

void attention_forward(Shape s, Heads q, Heads k, Heads v, Heads y, float *lse, float scale, float *scratch,
                       int threads)
{
    const long length = padded_length(s), size = padded_size(s), group = s.n_head / s.n_kv_head;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long task = 0; task < s.batch * s.n_kv_head; task++) {
        const long batch = task / s.n_kv_head, kv_head = task % s.n_kv_head;
        float *queries = scratch + omp_get_thread_num() * attention_forward_scratch(s);
        float *values = queries + length * size, *keys_turned = values + length * size;
        float *weights = keys_turned + length * s.size, *sums = weights + ROWS * length;
        pack_turned(keys_turned, head_of(k, batch, kv_head), k.token, s);
        pack(values, head_of(v, batch, kv_head), v.token, s, 1.0f);
        for (long head = kv_head * group; head < (kv_head + 1) * group; head++) {
            pack(queries, head_of(q, batch, head), q.token, s, scale);
            for (long first = 0; first < s.length; first += ROWS) {
                const long seen = first + ROWS, columns = round_up(seen, WIDTH);
                const long here = s.length - first < ROWS ? s.length - first : ROWS;
                product(weights, length, queries + first * size, size, 1, keys_turned, length, columns, s.size, 0);
                float inverse[ROWS];
                for (long i = 0; i < ROWS; i++) {
                    float log_sum = softmax_row(weights + i * length, first + i, columns, &inverse[i]);
                    if (i < here)
                        lse[(batch * s.n_head + head) * s.length + first + i] = log_sum;
                }
                product(sums, size, weights, length, 1, values, size, size, seen, 0);
                for (long i = 0; i < here; i++)
                    unpack(head_of(y, batch, head) + (first + i) * y.token, 0, sums + i * size, 1, s, inverse[i]);
            }
        }
    }
}

/* With P the weights: dV = P^T dY,  dS = P (dY V^T - rowsum(dY Y)),  dQ = scale dS K,  dK = dS^T (scale Q). */
void attention_backward(Shape s, Heads q, Heads k, Heads v, Heads y, const float *lse, Heads grad_y, Heads grad_q,
                        Heads grad_k, Heads grad_v, float scale, float *scratch, int threads)
{
    const long length = padded_length(s), size = padded_size(s), group = s.n_head / s.n_kv_head;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long task = 0; task < s.batch * s.n_kv_head; task++) {
        const long batch = task / s.n_kv_head, kv_head = task % s.n_kv_head;
        float *queries = scratch + omp_get_thread_num() * attention_backward_scratch(s);
        float *upstream = queries + length * size, *keys = upstream + length * size;
        float *dk = keys + length * size, *dv = dk + length * size;
        float *keys_turned = dv + length * size, *values_turned = keys_turned + length * s.size;
        float *weights = values_turned + length * s.size, *dscores = weights + BLOCK * length;
        float *dq = dscores + BLOCK * length;
        pack(keys, head_of(k, batch, kv_head), k.token, s, 1.0f);
        pack_turned(keys_turned, head_of(k, batch, kv_head), k.token, s);
        pack_turned(values_turned, head_of(v, batch, kv_head), v.token, s);
        memset(dk, 0, 2 * length * size * sizeof(float)); /* and dv */
        for (long head = kv_head * group; head < (kv_head + 1) * group; head++) {
            const float *outputs = head_of(y, batch, head);
            const float *log_sums = lse + (batch * s.n_head + head) * s.length;
            pack(queries, head_of(q, batch, head), q.token, s, scale);
            pack(upstream, head_of(grad_y, batch, head), grad_y.token, s, 1.0f);
            for (long block = 0; block < s.length; block += BLOCK) {
                const long end = block + BLOCK < length ? block + BLOCK : length;
                for (long first = block; first < end; first += ROWS) {
                    const long seen = first + ROWS, columns = round_up(seen, WIDTH);
                    float *p = weights + (first - block) * length, *ds = dscores + (first - block) * length;
                    product(p, length, queries + first * size, size, 1, keys_turned, length, columns, s.size, 0);
                    product(ds, length, upstream + first * size, size, 1, values_turned, length, columns, s.size, 0);
                    for (long i = 0; i < ROWS; i++) {
                        const long query = first + i;
                        const int real = query < s.length;
                        const float shared = real ? dot(outputs + query * y.token, upstream + query * size, s.size) : 0;
                        softmax_row_backward(p + i * length, ds + i * length, real ? query + 1 : 0, columns,
                                             real ? log_sums[query] : 0, shared);
                    }
                    product(dq, size, ds, length, 1, keys, size, size, seen, 0);
                    const long here = s.length - first < ROWS ? s.length - first : ROWS;
                    if (here > 0)
                        unpack(head_of(grad_q, batch, head) + first * grad_q.token, grad_q.token, dq, here, s, scale);
                }
                for (long key = 0; key < end; key += ROWS) {
                    const long from = key > block ? key - block : 0, inner = end - block - from; /* queries that see it */
                    const float *p = weights + from * length + key, *ds = dscores + from * length + key;
                    product(dv + key * size, size, p, 1, length, upstream + (block + from) * size, size, size, inner, 1);
                    product(dk + key * size, size, ds, 1, length, queries + (block + from) * size, size, size, inner, 1);
                }
            }
        }
        unpack(head_of(grad_k, batch, kv_head), grad_k.token, dk, s.length, s, 1.0f);
        unpack(head_of(grad_v, batch, kv_head), grad_v.token, dv, s.length, s, 1.0f);
    }
}
