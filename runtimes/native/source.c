/* What cross-attention reads: keys and values of a source's rows, computed once for all steps. */
#include <stdlib.h>

#include "model.h"

/* Rows that are computed together; a long source needs no more memory than a short one. */
#define ROWS_AT_ONCE 256

static EdSource *open_source(const EdSession *session, int rows, char *error)
{
    EdSource *source;
    if (!session->model->crosses) {
        ed_fail(error, "this model reads no source");
        return NULL;
    }
    if (rows < 1 || rows > ED_MOST_ROWS) {
        ed_fail(error, "a source cannot have %d rows", rows);
        return NULL;
    }
    source = calloc(1, sizeof *source);
    if (!source) {
        ed_fail(error, "no memory");
        return NULL;
    }
    atomic_store(&source->users, 1);
    source->rows = rows;
    if (!ed_stores_open(&source->stores, session->model, session->kv_type, rows, 1, error))
        return source;
    ed_stores_close(&source->stores);
    free(source);
    return NULL;
}

void ed_source_drop(EdSession *session)
{
    EdSource *source = session->source;
    session->source = NULL;
    if (source && atomic_fetch_sub(&source->users, 1) == 1) {
        ed_stores_close(&source->stores);
        free(source);
    }
}

/* --- computing it ----------------------------------------------------------------------------- */

typedef struct {
    EdRun run;
    const EdSource *source;
} Reading;

static void read_layer(EdRun *run, EdWorker *me, const EdAttention *la, const EdStore *store)
{
    EdProducts two = ed_product_of(run, 0, ED_PUT);
    EdView view = {.spec = la, .store = store};
    ed_into(&two, run->model, &la->k, la->k_bias, NULL, 0);
    ed_into(&two, run->model, &la->v, la->v_bias, NULL, 0);
    ed_heads(run, me, &view, &two, ED_KEYS);
}

/* Rows are packed once for all layers whose blocks are alike. */
static void read_rows(void *work, EdWorker *me)
{
    const Reading *reading = work;
    EdProgram p = {.run = reading->run};
    const EdModelSpec *spec = &p.run.model->spec;
    int block = 0;
    ed_embed(&p.run, me, 0);
    for (int i = 0; i < spec->layers; i++) {
        const EdAttention *la = &p.run.model->layers[i].cross;
        if (!la->q.weight)
            continue;
        if (la->k.block != block)
            ed_enter(&p, me,
                     &(EdEntry){.rows = p.run.rows,
                                .norm = spec->source_norm.kind ? &spec->source_norm : NULL,
                                .like = &la->k});
        block = la->k.block;
        read_layer(&p.run, me, la, &reading->source->stores.of[i]);
    }
}

/* Row i of the step is row first + i of the source; ranges: vectors are hidden states. */
static int read_part(EdSession *session, const EdSource *source, const float *vectors, int first,
                     char *error)
{
    static const int32_t hidden[2] = {1, 2};
    int32_t order[ROWS_AT_ONCE];
    int rows = ed_least(source->rows - first, ROWS_AT_ONCE);
    EdStep step = {.rows = rows,
                   .trunk = first,
                   .living = rows,
                   .handles = order,
                   .vectors = vectors + (size_t)first * (size_t)session->model->spec.dim,
                   .ranges = hidden,
                   .range_count = 1};
    Reading reading = {.run = {.session = session,
                               .model = session->model,
                               .kernels = session->model->kernels,
                               .input = &step,
                               .buffers = &session->buffers,
                               .rows = rows},
                       .source = source};
    for (int i = 0; i < rows; i++)
        order[i] = i;
    if (ed_buffers_reserve(session, &step, error))
        return -1;
    ed_team_run(session->model->team, read_rows, &reading);
    return 0;
}

int ed_session_source(EdSession *session, const float *vectors, int rows, char *error)
{
    EdSource *source;
    if (!rows) {
        ed_source_drop(session);
        return 0;
    }
    source = open_source(session, rows, error);
    if (!source)
        return -1;
    for (int first = 0; first < rows; first += ROWS_AT_ONCE) {
        if (read_part(session, source, vectors, first, error)) {
            ed_stores_close(&source->stores);
            free(source);
            return -1;
        }
    }
    ed_source_drop(session);
    session->source = source;
    return 0;
}

/* --- handing it on ---------------------------------------------------------------------------- */

int ed_session_share_source(EdSession *session, const EdSession *from, char *error)
{
    EdSource *source = from->source;
    if (session->model != from->model || session->kv_type != from->kv_type)
        return ed_fail(error, "sessions of different kinds cannot share a source");
    if (source)
        atomic_fetch_add(&source->users, 1);
    ed_source_drop(session);
    session->source = source;
    return 0;
}

int ed_session_source_rows(const EdSession *session)
{
    return session->source ? session->source->rows : 0;
}

size_t ed_session_source_bytes(const EdSession *session, int rows)
{
    return ed_row_bytes(session->model, session->kv_type, 1) * (size_t)rows;
}

void ed_session_get_source(const EdSession *session, void *bytes)
{
    if (session->source)
        ed_stores_get(&session->source->stores, session->source->rows, bytes);
}

int ed_session_set_source(EdSession *session, int rows, const void *bytes, char *error)
{
    EdSource *source = open_source(session, rows, error);
    if (!source)
        return -1;
    ed_stores_set(&source->stores, rows, bytes);
    ed_source_drop(session);
    session->source = source;
    return 0;
}
