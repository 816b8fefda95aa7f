/* Causal attention over whole rows, y = softmax(scale q k^T + mask) v, and its gradients, in fp32.
 *
 * q, y (B, H, T, D); k, v (B, G, T, D), each of whose heads serves H / G consecutive query heads; the log of each
 * softmax's denominator, lse (B, H, T), is all that the backward pass needs beside them. A task is one key head of one
 * row, done by one thread from beginning to end: results do not depend on the number of threads. Tiles that no query
 * sees are not computed, and a thread holds only the keys that one panel of queries sees: with a window both time and
 * scratch memory follow the window, not the length. */

#include <math.h>
#include <omp.h>

#include "vector.h"

enum { ROWS = WIDTH == 16 ? 8 : 4 };
enum { BLOCK = 64 }; /* queries whose weights are held at a time in the backward pass */

typedef struct {
    float *data;
    long batch, head, token; /* strides in floats; the last axis is contiguous */
} Heads;

typedef struct {
    long batch, n_head, n_kv_head, length, size; /* B, H, G, T, D */
} Shape;

/* Which of the keys u <= t a query t sees: those of its window, u >= (t / block + 1) * block - window, and those of the
 * columns, the blocks j with (j + 1) % stride == 0. Everything: window >= length, block 1, stride 0. Blocks other than
 * 1 are multiples of 16, and window is one of block. */
typedef struct {
    long window, block, stride;
} Pattern;

static inline long smaller(long a, long b) { return a < b ? a : b; }
static inline long round_down(long n, long unit) { return n / unit * unit; }
static inline long round_up(long n, long unit) { return (n + unit - 1) / unit * unit; }

/* The first key of the query's window. */
static inline long window_start(Pattern p, long query)
{
    const long start = (query / p.block + 1) * p.block - p.window;
    return start > 0 ? start : 0;
}

/* The number of keys in those columns that end before the window begins. */
static inline long columns_before(Pattern p, long start) { return p.stride ? start / p.block / p.stride * p.block : 0; }

/* Lengths and head sizes that whole vectors and tiles fill. */
static inline long padded_length(Shape s) { return round_up(s.length, WIDTH); }
static inline long padded_size(Shape s) { return round_up(s.size, WIDTH); }

/* What a thread holds at a time: `panel` queries, and `keys` keys, of which the first `columns` are those of all
 * columns, and the others those that the panel sees in its windows. */
typedef struct {
    long panel, columns, keys;
} Layout;

static inline Layout layout_of(Shape s, Pattern p)
{
    const long length = padded_length(s), columns = columns_before(p, s.length);
    const long panel = smaller(length, round_up(p.window, BLOCK));
    return (Layout){panel, columns, columns + smaller(length, round_up(panel + p.window, WIDTH) + WIDTH)};
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

/* Tokens times `factor` in rows of padded_size; zeros around them, up to a multiple of WIDTH. */
static void pack(float *restrict to, const float *restrict from, long token, long tokens, Shape s, float factor)
{
    const long wide = padded_size(s);
    for (long t = 0; t < tokens; t++) {
        for (long d = 0; d < s.size; d++)
            to[t * wide + d] = factor * from[t * token + d];
        for (long d = s.size; d < wide; d++)
            to[t * wide + d] = 0.0f;
    }
    memset(to + tokens * wide, 0, (round_up(tokens, WIDTH) - tokens) * wide * sizeof(float));
}

/* The same turned round, a row of `row` floats for each component. */
static void pack_turned(float *restrict to, long row, const float *restrict from, long token, long tokens, Shape s)
{
    for (long first = 0; first < tokens; first += WIDTH) {
        const long here = smaller(tokens - first, WIDTH);
        for (long d = 0; d < s.size; d++) {
            Vector turned = {0};
            for (long t = 0; t < here; t++)
                turned[t] = from[(first + t) * token + d];
            *(Vector *)(to + d * row + first) = turned;
        }
    }
}

static void unpack(float *to, long token, const float *from, long tokens, Shape s, float factor)
{
    for (long t = 0; t < tokens; t++)
        for (long d = 0; d < s.size; d++)
            to[t * token + d] = factor * from[t * padded_size(s) + d];
}

static void unpack_and_add(float *to, long token, const float *from, long tokens, Shape s)
{
    for (long t = 0; t < tokens; t++)
        for (long d = 0; d < s.size; d++)
            to[t * token + d] += from[t * padded_size(s) + d];
}

/* The first token of the column that holds packed key `at`. */
static inline long column_at(Pattern p, long at) { return ((at / p.block + 1) * p.stride - 1) * p.block; }

/* Floats of scratch memory that each thread needs. */
long attention_forward_scratch(Shape s, Pattern p)
{
    const Layout l = layout_of(s, p);
    return (l.keys + l.panel) * padded_size(s) + l.keys * s.size + ROWS * (l.keys + padded_size(s));
}

long attention_backward_scratch(Shape s, Pattern p)
{
    const Layout l = layout_of(s, p);
    return (3 * l.keys + 2 * l.panel) * padded_size(s) + 2 * l.keys * s.size + 2 * BLOCK * l.keys +
           ROWS * padded_size(s);
}

/* In place: scores of one query -> exp(score - largest) of the keys it sees: those before `hidden`, and from
 * `hidden_end` to `seen`. Zeros elsewhere. Returns the log of the sum times e^largest, and its inverse without it. */
static inline float softmax_row(float *row, long hidden, long hidden_end, long seen, long columns, float *inverse)
{
    for (long j = hidden; j < hidden_end; j++)
        row[j] = -INFINITY;
    for (long j = seen; j < columns; j++)
        row[j] = -INFINITY;
    Vector larger = *(Vector *)row, sum = {0};
    for (long j = WIDTH; j < columns; j += WIDTH) {
        Vector x = *(Vector *)(row + j);
        larger = either(x > larger, x, larger);
    }
    const float largest = largest_of(larger);
    for (long j = 0; j < columns; j += WIDTH) {
        Vector x = exponential(*(Vector *)(row + j) - largest); /* where not seen 1e-38, which no sum notices */
        *(Vector *)(row + j) = x;
        sum += x;
    }
    for (long j = hidden; j < hidden_end; j++)
        row[j] = 0.0f;
    for (long j = seen; j < columns; j++)
        row[j] = 0.0f;
    const float total = sum_of(sum);
    *inverse = 1.0f / total;
    return largest + logf(total);
}

/* In place: scores of one query and dY V^T -> weights, and the scores' gradients. Zeros before `hidden`, and from
 * `seen`. */
static inline void softmax_row_backward(float *row, float *gradient, long hidden, long seen, long columns,
                                        float log_sum, float shared)
{
    for (long j = 0; j < seen; j += WIDTH) {
        Vector p = exponential(*(Vector *)(row + j) - log_sum), *ds = (Vector *)(gradient + j);
        *(Vector *)(row + j) = p;
        *ds = p * (*ds - shared);
    }
    for (long j = 0; j < hidden; j++)
        row[j] = gradient[j] = 0.0f;
    for (long j = seen; j < columns; j++)
        row[j] = gradient[j] = 0.0f;
}

/* Zeros from `from` to `to`, if there is anything between. */
static inline void clear(float *row, long from, long to)
{
    if (to > from)
        memset(row + from, 0, (to - from) * sizeof(float));
}

static float dot(const float *a, const float *b, long n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

void attention_forward(Shape s, Pattern p, Heads q, Heads k, Heads v, Heads y, float *lse, float scale, float *scratch,
                       int threads)
{
    const long size = padded_size(s), group = s.n_head / s.n_kv_head;
    const Layout l = layout_of(s, p);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long task = 0; task < s.batch * s.n_kv_head; task++) {
        const long batch = task / s.n_kv_head, kv_head = task % s.n_kv_head;
        const float *from_k = head_of(k, batch, kv_head), *from_v = head_of(v, batch, kv_head);
        float *queries = scratch + omp_get_thread_num() * attention_forward_scratch(s, p);
        float *values = queries + l.panel * size, *keys_turned = values + l.keys * size;
        float *weights = keys_turned + l.keys * s.size, *sums = weights + ROWS * l.keys;
        for (long at = 0; at < l.columns; at += p.block) {
            const long key = column_at(p, at);
            pack_turned(keys_turned + at, l.keys, from_k + key * k.token, k.token, p.block, s);
            pack(values + at * size, from_v + key * v.token, v.token, p.block, s, 1.0f);
        }
        for (long panel = 0; panel < s.length; panel += l.panel) {
            const long end = smaller(panel + l.panel, s.length), low = round_down(window_start(p, panel), WIDTH);
            pack_turned(keys_turned + l.columns, l.keys, from_k + low * k.token, k.token, end - low, s);
            pack(values + l.columns * size, from_v + low * v.token, v.token, end - low, s, 1.0f);
            for (long head = kv_head * group; head < (kv_head + 1) * group; head++) {
                pack(queries, head_of(q, batch, head) + panel * q.token, q.token, end - panel, s, scale);
                for (long first = panel; first < end; first += ROWS) {
                    const long start = round_down(window_start(p, first), WIDTH), before = columns_before(p, start);
                    const long near = l.columns + start - low, seen = first + ROWS - start;
                    const long columns = round_up(first + ROWS, WIDTH) - start, here = smaller(end - first, ROWS);
                    const float *tile_q = queries + (first - panel) * size;
                    product(weights, l.keys, tile_q, size, 1, keys_turned, l.keys, before, s.size, 0);
                    product(weights + before, l.keys, tile_q, size, 1, keys_turned + near, l.keys, columns, s.size, 0);
                    float inverse[ROWS];
                    for (long i = 0; i < ROWS; i++) {
                        const long hidden_end = before + window_start(p, first + i) - start;
                        const long row_seen = before + first + i + 1 - start;
                        float log_sum = softmax_row(weights + i * l.keys, before, hidden_end, row_seen,
                                                    before + columns, &inverse[i]);
                        if (i < here)
                            lse[(batch * s.n_head + head) * s.length + first + i] = log_sum;
                    }
                    if (before)
                        product(sums, size, weights, l.keys, 1, values, size, size, before, 0);
                    const float *near_values = values + near * size;
                    product(sums, size, weights + before, l.keys, 1, near_values, size, size, seen, before > 0);
                    for (long i = 0; i < here; i++)
                        unpack(head_of(y, batch, head) + (first + i) * y.token, 0, sums + i * size, 1, s, inverse[i]);
                }
            }
        }
    }
}

/* With P the weights: dV = P^T dY,  dS = P (dY V^T - rowsum(dY Y)),  dQ = scale dS K,  dK = dS^T (scale Q). */
void attention_backward(Shape s, Pattern p, Heads q, Heads k, Heads v, Heads y, const float *lse, Heads grad_y,
                        Heads grad_q, Heads grad_k, Heads grad_v, float scale, float *scratch, int threads)
{
    const long size = padded_size(s), group = s.n_head / s.n_kv_head;
    const Layout l = layout_of(s, p);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long task = 0; task < s.batch * s.n_kv_head; task++) {
        const long batch = task / s.n_kv_head, kv_head = task % s.n_kv_head;
        const float *from_k = head_of(k, batch, kv_head), *from_v = head_of(v, batch, kv_head);
        float *to_k = head_of(grad_k, batch, kv_head), *to_v = head_of(grad_v, batch, kv_head);
        float *queries = scratch + omp_get_thread_num() * attention_backward_scratch(s, p);
        float *upstream = queries + l.panel * size, *keys = upstream + l.panel * size;
        float *dk = keys + l.keys * size, *dv = dk + l.keys * size;
        float *keys_turned = dv + l.keys * size, *values_turned = keys_turned + l.keys * s.size;
        float *weights = values_turned + l.keys * s.size, *dscores = weights + BLOCK * l.keys;
        float *dq = dscores + BLOCK * l.keys;
        for (long at = 0; at < l.columns; at += p.block) {
            const long key = column_at(p, at);
            pack(keys + at * size, from_k + key * k.token, k.token, p.block, s, 1.0f);
            pack_turned(keys_turned + at, l.keys, from_k + key * k.token, k.token, p.block, s);
            pack_turned(values_turned + at, l.keys, from_v + key * v.token, v.token, p.block, s);
        }
        clear(dk, 0, l.columns * size);
        clear(dv, 0, l.columns * size);
        for (long panel = 0; panel < s.length; panel += l.panel) {
            const long end = smaller(panel + l.panel, s.length), low = round_down(window_start(p, panel), WIDTH);
            pack(keys + l.columns * size, from_k + low * k.token, k.token, end - low, s, 1.0f);
            pack_turned(keys_turned + l.columns, l.keys, from_k + low * k.token, k.token, end - low, s);
            pack_turned(values_turned + l.columns, l.keys, from_v + low * v.token, v.token, end - low, s);
            clear(dk, l.columns * size, l.keys * size);
            clear(dv, l.columns * size, l.keys * size);
            for (long head = kv_head * group; head < (kv_head + 1) * group; head++) {
                const float *outputs = head_of(y, batch, head);
                const float *log_sums = lse + (batch * s.n_head + head) * s.length;
                pack(queries, head_of(q, batch, head) + panel * q.token, q.token, end - panel, s, scale);
                pack(upstream, head_of(grad_y, batch, head) + panel * grad_y.token, grad_y.token, end - panel, s, 1.0f);
                for (long block = panel; block < end; block += BLOCK) {
                    const long stop = smaller(block + BLOCK, round_up(end, WIDTH));
                    const long earliest = round_down(window_start(p, block), WIDTH);
                    const long most_columns = columns_before(p, window_start(p, stop - 1));
                    for (long first = block; first < stop; first += ROWS) {
                        const long start = round_down(window_start(p, first), WIDTH), before = columns_before(p, start);
                        const long near = l.columns + start - low, seen = first + ROWS - start;
                        const long columns = round_up(first + ROWS, WIDTH) - start;
                        const float *tile_q = queries + (first - panel) * size;
                        const float *tile_dy = upstream + (first - panel) * size;
                        float *w = weights + (first - block) * l.keys, *ds = dscores + (first - block) * l.keys;
                        product(w, l.keys, tile_q, size, 1, keys_turned, l.keys, before, s.size, 0);
                        product(ds, l.keys, tile_dy, size, 1, values_turned, l.keys, before, s.size, 0);
                        product(w + near, l.keys, tile_q, size, 1, keys_turned + near, l.keys, columns, s.size, 0);
                        product(ds + near, l.keys, tile_dy, size, 1, values_turned + near, l.keys, columns, s.size, 0);
                        for (long i = 0; i < ROWS; i++) {
                            const long query = first + i, row = i * l.keys;
                            const int real = query < s.length;
                            const float log_sum = real ? log_sums[query] : 0;
                            const float shared = real ? dot(outputs + query * y.token, tile_dy + i * size, s.size) : 0;
                            softmax_row_backward(w + row, ds + row, 0, real ? before : 0, before, log_sum, shared);
                            softmax_row_backward(w + row + near, ds + row + near, window_start(p, query) - start,
                                                 real ? query + 1 - start : 0, columns, log_sum, shared);
                            clear(w + row, before, most_columns); /* what others of the block see, and this does not */
                            clear(ds + row, before, most_columns);
                            clear(w + row, l.columns + earliest - low, near);
                            clear(ds + row, l.columns + earliest - low, near);
                        }
                        if (before)
                            product(dq, size, ds, l.keys, 1, keys, size, size, before, 0);
                        product(dq, size, ds + near, l.keys, 1, keys + near * size, size, size, seen, before > 0);
                        float *to_q = head_of(grad_q, batch, head) + first * grad_q.token;
                        unpack(to_q, grad_q.token, dq, smaller(end - first, ROWS), s, scale);
                    }
                    for (long at = 0; at < most_columns; at += ROWS) {
                        const float *seen_by = queries + (block - panel) * size;
                        const float *dy = upstream + (block - panel) * size;
                        product(dv + at * size, size, weights + at, 1, l.keys, dy, size, size, stop - block, 1);
                        product(dk + at * size, size, dscores + at, 1, l.keys, seen_by, size, size, stop - block, 1);
                    }
                    for (long key = earliest; key < stop; key += ROWS) {
                        const long from = key > block ? key : block; /* queries that see it */
                        const long inner = smaller(stop, key + ROWS + p.window) - from, at = l.columns + key - low;
                        const float *w = weights + (from - block) * l.keys + at;
                        const float *ds = dscores + (from - block) * l.keys + at;
                        const float *seen_by = queries + (from - panel) * size, *dy = upstream + (from - panel) * size;
                        product(dv + at * size, size, w, 1, l.keys, dy, size, size, inner, 1);
                        product(dk + at * size, size, ds, 1, l.keys, seen_by, size, size, inner, 1);
                    }
                }
            }
            /* Keys before the panel have something from the panels before. */
            const float *near_k = dk + l.columns * size, *near_v = dv + l.columns * size;
            unpack_and_add(to_k + low * grad_k.token, grad_k.token, near_k, panel - low, s);
            unpack_and_add(to_v + low * grad_v.token, grad_v.token, near_v, panel - low, s);
            unpack(to_k + panel * grad_k.token, grad_k.token, near_k + (panel - low) * size, end - panel, s, 1.0f);
            unpack(to_v + panel * grad_v.token, grad_v.token, near_v + (panel - low) * size, end - panel, s, 1.0f);
        }
        for (long at = 0; at < l.columns; at += p.block) {
            const long key = column_at(p, at);
            unpack_and_add(to_k + key * grad_k.token, grad_k.token, dk + at * size, p.block, s);
            unpack_and_add(to_v + key * grad_v.token, grad_v.token, dv + at * size, p.block, s);
        }
    }
}
