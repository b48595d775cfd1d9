/* The memory that a step works in; it grows with the widest step so far. */
#include <stdlib.h>

#include "model.h"

/* Partial results of attention may take this much; beyond, chunks are not shared out. */
#define MOST_PARTIALS ((size_t)2 << 20)

static int most(int a, int b)
{
    return a > b ? a : b;
}

static void widen(EdWidths *w, const EdMatrix *m)
{
    w->blocks = most(w->blocks, (m->inputs + 31) / 32);
    w->inputs = most(w->inputs, ed_padded(m->inputs, 128));
}

static void widen_attention(EdWidths *w, const EdAttention *la)
{
    w->queries = most(w->queries, ed_padded(la->q.outputs, 16));
    w->head_dim = most(w->head_dim, ed_padded(la->head_dim, 16));
    w->heads = most(w->heads, la->heads);
    widen(w, &la->q);
    widen(w, &la->o);
}

EdWidths ed_widths(const EdModel *model)
{
    EdWidths w = {.dim = model->spec.dim};
    if (!model->spec.encoder)
        widen(&w, &model->spec.head);
    for (int i = 0; i < model->spec.ropes; i++)
        w.pairs = most(w.pairs, ed_padded(model->ropes[i].pairs, 16));
    for (int i = 0; i < model->spec.layers; i++) {
        const EdLayer *la = &model->layers[i];
        widen_attention(&w, &la->own);
        if (la->cross.q.weight)
            widen_attention(&w, &la->cross);
        widen(&w, &la->down);
    }
    return w;
}

/* Cut from one block of memory; with no memory yet it only counts. */
typedef struct {
    unsigned char *memory;
    size_t used;
} Cut;

static void *cut(Cut *from, size_t size)
{
    void *here = from->memory ? from->memory + from->used : NULL;
    from->used += (size + 63) / 64 * 64;
    return here;
}

static float *floats(Cut *from, size_t rows, int width)
{
    return cut(from, rows * (size_t)width * sizeof(float));
}

static EdRows *packed_rows(Cut *from, const EdWidths *w, size_t groups)
{
    EdRows *all = cut(from, groups * sizeof *all);
    for (size_t i = 0; i < groups; i++) {
        EdRows rows = {
            .values = cut(from, ED_GROUP * (size_t)w->inputs),
            .scales = floats(from, ED_GROUP, w->blocks),
            .sums = cut(from, ED_GROUP * (size_t)w->blocks * sizeof(int32_t)),
        };
        if (all)
            all[i] = rows;
    }
    return all;
}

static void lay_out(EdBuffers *b, Cut *from, const EdSession *session)
{
    const EdWidths *w = &session->widths;
    size_t rows = (size_t)b->rows, groups = (rows + ED_GROUP - 1) / ED_GROUP;
    size_t lines = rows * (size_t)w->heads;
    b->x = floats(from, rows, w->dim);
    b->y = floats(from, rows, w->dim);
    b->mixed = floats(from, rows, w->queries);
    b->queries = floats(from, lines, w->head_dim);
    b->query_bytes = cut(from, lines * (size_t)w->head_dim);
    b->query_scales = floats(from, lines, 1);
    b->query_sums = cut(from, lines * sizeof *b->query_sums);
    b->cosines = floats(from, rows * (size_t)session->model->spec.ropes, w->pairs);
    b->sines = floats(from, rows * (size_t)session->model->spec.ropes, w->pairs);
    b->sight = cut(from, rows * sizeof *b->sight);
    for (int i = 0; i < 2; i++)
        b->packed[i] = packed_rows(from, w, groups);
    b->entered = packed_rows(from, w, (size_t)ed_team_size(session->model->team));
}

/* One buffer of its own that grows; what it held is lost. */
static int grow(void **buffer, size_t *have, size_t want)
{
    if (*have >= want)
        return 0;
    free(*buffer);
    *have = 0;
    *buffer = aligned_alloc(64, (want + 63) / 64 * 64);
    if (!*buffer)
        return -1;
    *have = want;
    return 0;
}

static size_t partial_floats(const EdSession *session, const EdStep *step)
{
    int keys = most(step->trunk + step->living, session->source ? session->source->rows : 0);
    size_t spans = (size_t)(keys + ED_SPAN * ED_CHUNK - 1) / (ED_SPAN * ED_CHUNK);
    size_t heads = (size_t)session->widths.heads * spans; /* each with a multiple of 16 queries */
    size_t floats =
        heads * ((size_t)step->rows * (size_t)(session->widths.head_dim + 2) + 2 * 16);
    return floats <= MOST_PARTIALS ? floats : 0;
}

static int reserve_rows(EdSession *session, int rows)
{
    EdBuffers *b = &session->buffers;
    Cut from = {0};
    int before = b->rows;
    if (rows <= before)
        return 0;
    b->rows = rows;
    lay_out(b, &from, session);
    b->rows = 0;
    if (grow((void **)&b->memory, &b->memory_size, from.used))
        return -1;
    b->rows = rows;
    from = (Cut){b->memory, 0};
    lay_out(b, &from, session);
    return 0;
}

int ed_buffers_reserve(EdSession *session, const EdStep *step, char *error)
{
    EdBuffers *b = &session->buffers;
    size_t threads = (size_t)ed_team_size(session->model->team), vocab;
    size_t extras = (size_t)step->rows * (size_t)step->living * sizeof *b->extras;
    /* Where all rows see the same, what ends within a chunk is one chunk. */
    int live = session->model->spec.encoder ? 1 : ed_live_chunks(step->trunk, step->living);
    size_t piece = (ed_piece_size(session, live) + 63) / 64 * 64;
    vocab = (size_t)ed_padded(session->model->spec.vocab, 16);
    if (reserve_rows(session, step->rows) ||
        grow((void **)&b->logits, &b->logits_size,
             (size_t)step->head_count * vocab * sizeof(float)) ||
        grow((void **)&b->extras, &b->extras_size, step->visible ? extras : 0) ||
        grow((void **)&b->partials, &b->partials_size,
             partial_floats(session, step) * sizeof(float)) ||
        grow((void **)&b->scratch, &b->scratch_all, piece * threads))
        return ed_fail(error, "no memory for a step of %d rows", step->rows);
    b->scratch_size = piece;
    b->partial_floats = partial_floats(session, step);
    return 0;
}

void ed_buffers_free(EdBuffers *b)
{
    free(b->memory);
    free(b->logits);
    free(b->extras);
    free(b->partials);
    free(b->scratch);
}
