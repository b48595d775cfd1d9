/* The two products of attention, written once over the lanes: scores from queries and keys, and
 * values weighed by scores. See EdMix and EdMixBytes.
 */
#ifndef ED_MIXES_H
#define ED_MIXES_H

/* Columns that are mixed at a time. */
#define ED_COLUMNS (16 * LANES_VECTORS)

/* The same place of the next chunk is asked for while this one is used, little by little: `parts`
 * passes over b share it, and this is the one that begins at `next`. */
typedef struct {
    uintptr_t next;
    size_t line;
    int parts, turn;
} Asking;

static inline Asking asking(const void *b, size_t chunk, size_t line, int inner, int part,
                            int parts)
{
    size_t first = (size_t)(part * inner / parts) * line;
    return (Asking){(uintptr_t)b + chunk + first, line, parts, 0};
}

ED_INLINE void ask(Asking *asking)
{
    ED_ASK_FOR(asking->next);
    ED_ASK_FOR(asking->next + 64);
    if (++asking->turn == asking->parts) {
        asking->turn = 0;
        asking->next += asking->line;
    }
}

/* Whether b is turned into floats: not at all, now, or before. */
enum { ED_ONCE, ED_FIRST, ED_LATER };

/* Q queries times V vectors of columns. For more queries than registers hold, b is turned into
 * floats by the first of them, [inner][V][16], while they use it. */
ED_INLINE void mix_part(const EdMixShape *s, const float *a, const uint16_t *b, float *floats,
                        float *out, Asking ahead, const int kind, const int Q, const int V)
{
    Vf sum[LANES_QUERIES][LANES_VECTORS];
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++)
            sum[q][v] = vf_set1(0.0f);
    for (int i = 0; i < s->inner; i++, b += s->width, floats += 16 * V) {
        Vf here[LANES_VECTORS];
        ask(&ahead);
        for (int v = 0; v < V; v++) {
            here[v] = kind == ED_LATER ? vf_load(floats + 16 * v) : vf_load_half(b + 16 * v);
            if (kind == ED_FIRST)
                vf_store(floats + 16 * v, here[v]);
        }
        for (int q = 0; q < Q; q++) {
            Vf x = vf_set1(a[q * s->stride + i]);
            for (int v = 0; v < V; v++)
                sum[q][v] = vf_fma(x, here[v], sum[q][v]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++)
            vf_store(out + q * s->width + 16 * v, sum[q][v]);
}

/* Queries that go together next: as equal parts as can be. */
static inline int queries_next(int left)
{
    int parts = (left + LANES_QUERIES - 1) / LANES_QUERIES;
    return (left + parts - 1) / parts;
}

/* A call for each number of queries, which must be known to keep sums in registers. */
#define ED_FOR_QUERIES(count, call)                    \
    switch (count) {                                   \
    case 1: call(1); break;                            \
    case 2: call(2); break;                            \
    case 3: call((LANES_QUERIES < 3 ? 1 : 3)); break;  \
    case 4: call((LANES_QUERIES < 4 ? 1 : 4)); break;  \
    case 5: call((LANES_QUERIES < 5 ? 1 : 5)); break;  \
    default: call((LANES_QUERIES < 6 ? 1 : 6)); break; \
    }

/* V vectors of columns for all queries. */
ED_INLINE void mix_columns(const EdMixShape *s, const float *a, const uint16_t *b, float *out,
                           const int V)
{
    float floats[ED_MOST_HEAD_DIM * ED_COLUMNS];
    int parts = (s->queries + LANES_QUERIES - 1) / LANES_QUERIES, part = 0;
    size_t line = (size_t)s->width * sizeof *b, chunk = (size_t)ED_CHUNK * (size_t)s->head * 2;
    for (int q = 0, next; q < s->queries; q += next, part++) {
        const float *from = a + q * s->stride;
        float *to = out + q * s->width;
        Asking ahead = asking(b, chunk, line, s->inner, part, parts);
        next = queries_next(s->queries - q);
#define ED_CALL(Q)                                               \
    if (parts == 1)                                              \
        mix_part(s, from, b, floats, to, ahead, ED_ONCE, Q, V);  \
    else if (!part)                                              \
        mix_part(s, from, b, floats, to, ahead, ED_FIRST, Q, V); \
    else                                                         \
        mix_part(s, from, b, floats, to, ahead, ED_LATER, Q, V)
        ED_FOR_QUERIES(next, ED_CALL)
#undef ED_CALL
    }
}

static void mix(const EdMixShape *s, const float *a, const uint16_t *b, float *out)
{
    int column = 0;
    for (; column + ED_COLUMNS <= s->columns; column += ED_COLUMNS)
        mix_columns(s, a, b + column, out + column, LANES_VECTORS);
    for (; column < s->columns; column += 16)
        mix_columns(s, a, b + column, out + column, 1);
}

ED_INLINE void mix_bytes_part(const EdMixShape *s, const int8_t *a, const int32_t *sums,
                              const int8_t *b, int32_t *out, Asking ahead, const int Q, const int V)
{
    Vi sum[LANES_QUERIES][LANES_VECTORS];
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++)
            sum[q][v] = vi_set1(sums ? vi_signed_start(sums[q]) : 0);
    for (int i = 0; i < s->inner; i += 4, b += 4 * s->width) {
        Vb here[LANES_VECTORS];
        ask(&ahead);
        ask(&ahead);
        for (int v = 0; v < V; v++)
            here[v] = sums ? vb_signed(vb_load(b + 64 * v)) : vb_load(b + 64 * v);
        for (int q = 0; q < Q; q++) {
            Vi x = four_bytes(a + q * s->stride + i);
            for (int v = 0; v < V; v++)
                sum[q][v] = sums ? vi_dot_signed(sum[q][v], here[v], x)
                                 : vi_dot_weights(sum[q][v], here[v], x);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++)
            vi_store(out + q * s->width + 16 * v, sum[q][v]);
}

ED_INLINE void mix_bytes_columns(const EdMixShape *s, const int8_t *a, const int32_t *sums,
                                 const int8_t *b, int32_t *out, const int V)
{
    int part = 0, parts = (s->queries + LANES_QUERIES - 1) / LANES_QUERIES;
    size_t line = (size_t)s->width * 2, chunk = (size_t)ED_CHUNK * (size_t)s->head;
    for (int q = 0, next; q < s->queries; q += next) {
        const int8_t *from = a + q * s->stride;
        int32_t *to = out + q * s->width;
        Asking ahead = asking(b, chunk, line, s->inner / 2, part++, parts);
        next = queries_next(s->queries - q);
#define ED_CALL(Q)                                             \
    if (sums)                                                  \
        mix_bytes_part(s, from, sums + q, b, to, ahead, Q, V); \
    else                                                       \
        mix_bytes_part(s, from, NULL, b, to, ahead, Q, V)
        ED_FOR_QUERIES(next, ED_CALL)
#undef ED_CALL
    }
}

static void mix_bytes(const EdMixShape *s, const int8_t *a, const int32_t *sums, const int8_t *b,
                      int32_t *out)
{
    int column = 0;
    for (; column + ED_COLUMNS <= s->columns; column += ED_COLUMNS)
        mix_bytes_columns(s, a, sums, b + 4 * column, out + column, LANES_VECTORS);
    for (; column < s->columns; column += 16)
        mix_bytes_columns(s, a, sums, b + 4 * column, out + column, 1);
}

#endif
