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

/* How the products of queries from `first` on are put out: see EdMix. */
typedef struct {
    const EdShares *shares;
    int first;
} Joining;

ED_INLINE void put_line(const Joining *joining, int query, const Vf *line, float *out, const int V)
{
    const EdShares *shares = joining->shares;
    int q = joining->first + query;
    Vf before = vf_set1(shares ? shares->before[q] : 0.0f);
    Vf here = vf_set1(shares ? shares->here[q] : 0.0f);
    for (int v = 0; v < V; v++, out += 16)
        vf_store(out, shares ? vf_fma(vf_load(out), before, vf_mul(line[v], here)) : line[v]);
}

/* Whether b is turned into floats: not at all, now, or before. */
enum { ED_ONCE, ED_FIRST, ED_LATER };

/* Q queries times V vectors of columns. For more queries than registers hold, b is turned into
 * floats by the first of them, [inner][V][16], while they use it. */
ED_INLINE void mix_part(const EdMixShape *s, const float *a, const uint16_t *b, float *floats,
                        const Joining *joining, float *out, Asking ahead, const int kind,
                        const int Q, const int V)
{
    Vf sum[LANES_QUERIES][LANES_VECTORS];
    int i = 0;
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++)
            sum[q][v] = vf_set1(0.0f);
    do { /* with `for`, compilers keep the sums in memory too, for when there is no round */
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
        b += s->width;
        floats += 16 * V;
    } while (++i < s->inner);
    for (int q = 0; q < Q; q++)
        put_line(joining, q, sum[q], out + q * s->width, V);
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
ED_INLINE void mix_columns(const EdMixShape *s, const float *a, const uint16_t *b,
                           const EdShares *shares, float *out, const int V)
{
    float floats[ED_MOST_HEAD_DIM * ED_COLUMNS];
    int parts = (s->queries + LANES_QUERIES - 1) / LANES_QUERIES, part = 0;
    size_t line = (size_t)s->width * sizeof *b, chunk = (size_t)ED_CHUNK * (size_t)s->head * 2;
    for (int q = 0, next; q < s->queries; q += next, part++) {
        const float *from = a + q * s->stride;
        float *to = out + q * s->width;
        const Joining joining = {shares, q};
        Asking ahead = asking(b, chunk, line, s->inner, part, parts);
        next = queries_next(s->queries - q);
#define ED_CALL(Q)                                               \
    if (parts == 1)                                                        \
        mix_part(s, from, b, floats, &joining, to, ahead, ED_ONCE, Q, V);  \
    else if (!part)                                                        \
        mix_part(s, from, b, floats, &joining, to, ahead, ED_FIRST, Q, V); \
    else                                                                   \
        mix_part(s, from, b, floats, &joining, to, ahead, ED_LATER, Q, V)
        ED_FOR_QUERIES(next, ED_CALL)
#undef ED_CALL
    }
}

static void mix(const EdMixShape *s, const float *a, const uint16_t *b, const EdShares *shares,
                float *out)
{
    int column = 0;
    for (; column + ED_COLUMNS <= s->columns; column += ED_COLUMNS)
        mix_columns(s, a, b + column, shares, out + column, LANES_VECTORS);
    for (; column < s->columns; column += 16)
        mix_columns(s, a, b + column, shares, out + column, 1);
}

/* How integers are put out, from a column on: see EdMixBytes. */
typedef struct {
    const EdScaling *scaling;
    int column;
} Scaling;

ED_INLINE void put_integers(const Scaling *to, int q, const Vi *line, int32_t *out, const int V)
{
    const EdScaling *scaling = to->scaling;
    Joining joining = {scaling ? scaling->shares : NULL, q};
    Vf numbers[LANES_VECTORS];
    if (!scaling) {
        for (int v = 0; v < V; v++)
            vi_store(out + 16 * v, line[v]);
        return;
    }
    for (int v = 0; v < V; v++) {
        numbers[v] = vf_mul(vf_from_vi(line[v]), vf_set1(scaling->factors[q]));
        if (scaling->by)
            numbers[v] = vf_mul(numbers[v], vf_load(scaling->by + to->column + 16 * v));
    }
    put_line(&joining, 0, numbers, (float *)out, V);
}

ED_INLINE void mix_bytes_part(const EdMixShape *s, const int8_t *a, const int32_t *sums,
                              const int8_t *b, const Scaling *to, int first, int32_t *out,
                              Asking ahead, const int Q, const int V)
{
    Vi sum[LANES_QUERIES][LANES_VECTORS];
    int i = 0;
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++)
            sum[q][v] = vi_set1(sums ? vi_signed_start(sums[q]) : 0);
    do {
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
        i += 4;
        b += 4 * s->width;
    } while (i < s->inner);
    for (int q = 0; q < Q; q++)
        put_integers(to, first + q, sum[q], out + q * s->width, V);
}

ED_INLINE void mix_bytes_columns(const EdMixShape *s, const int8_t *a, const int32_t *sums,
                                 const int8_t *b, const Scaling *scaling, int32_t *out, const int V)
{
    int part = 0, parts = (s->queries + LANES_QUERIES - 1) / LANES_QUERIES;
    size_t line = (size_t)s->width * 2, chunk = (size_t)ED_CHUNK * (size_t)s->head;
    for (int q = 0, next; q < s->queries; q += next) {
        const int8_t *from = a + q * s->stride;
        int32_t *to = out + q * s->width;
        Asking ahead = asking(b, chunk, line, s->inner / 2, part++, parts);
        next = queries_next(s->queries - q);
#define ED_CALL(Q)                                                         \
    if (sums)                                                              \
        mix_bytes_part(s, from, sums + q, b, scaling, q, to, ahead, Q, V); \
    else                                                                   \
        mix_bytes_part(s, from, NULL, b, scaling, q, to, ahead, Q, V)
        ED_FOR_QUERIES(next, ED_CALL)
#undef ED_CALL
    }
}

static void mix_bytes(const EdMixShape *s, const int8_t *a, const int32_t *sums, const int8_t *b,
                      const EdScaling *scaling, void *out)
{
    Scaling to = {scaling, 0};
    int32_t *first = out;
    for (; to.column + ED_COLUMNS <= s->columns; to.column += ED_COLUMNS)
        mix_bytes_columns(s, a, sums, b + 4 * to.column, &to, first + to.column, LANES_VECTORS);
    for (; to.column < s->columns; to.column += 16)
        mix_bytes_columns(s, a, sums, b + 4 * to.column, &to, first + to.column, 1);
}

#endif
