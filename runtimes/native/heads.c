/* From products to attention: norms and rotary positions per head, and storing keys and values.
 *
 * Keys and values are rounded as they are stored, before anything uses them.
 */
#include <string.h>

#include "model.h"

static void prepare(const EdRun *run, const EdAttention *la, const EdNorm *norm, int row, float *x)
{
    if (norm->kind)
        ed_normalise(run, norm, la->head_dim, x);
    if (la->rope >= 0) {
        const EdRope *rope = &run->model->ropes[la->rope];
        size_t at = ((size_t)la->rope * (size_t)run->rows + (size_t)row) *
                    (size_t)run->session->widths.pairs;
        run->kernels->rotate(x, run->buffers->cosines + at, run->buffers->sines + at, rope->pairs,
                             rope->interleaved);
    }
}

void ed_query(const EdRun *run, const EdView *view, int row, int head)
{
    EdBuffers *b = run->buffers;
    const EdAttention *la = view->spec;
    int dim = ed_padded(la->head_dim, 16);
    size_t line = (size_t)head * (size_t)run->rows + (size_t)row;
    float *to = b->queries + line * (size_t)dim;
    const float *q = b->q + (size_t)row * (size_t)run->session->widths.queries;
    int8_t *bytes = b->query_bytes + line * (size_t)dim;
    int32_t sum = 0;
    memset(to + la->head_dim, 0, (size_t)(dim - la->head_dim) * sizeof *to);
    memcpy(to, q + (size_t)head * (size_t)la->head_dim, (size_t)la->head_dim * sizeof *to);
    prepare(run, la, &la->q_norm, row, to);
    run->kernels->scale(to, la->scale, dim, to);
    if (view->store->kv_type != ED_KV_INT8)
        return;
    b->query_scales[line] = run->kernels->to_bytes(to, dim, bytes);
    for (int i = 0; i < dim; i++)
        sum += bytes[i];
    b->query_sums[line] = -8 * sum;
}

/* Rows of one head that are done together, so that threads do not write the same cache lines. */
#define TOGETHER 32

static void key_and_value(const EdRun *run, const EdView *view, int row, int head)
{
    EdBuffers *b = run->buffers;
    const EdAttention *la = view->spec;
    size_t at =
        (size_t)row * (size_t)run->session->widths.keys + (size_t)head * (size_t)la->head_dim;
    float key[ED_MOST_HEAD_DIM], value[ED_MOST_HEAD_DIM];
    size_t rest = (size_t)(ed_padded(la->head_dim, 16) - la->head_dim) * sizeof *key;
    memset(key + la->head_dim, 0, rest);
    memset(value + la->head_dim, 0, rest);
    memcpy(key, b->k + at, (size_t)la->head_dim * sizeof *key);
    memcpy(value, b->v + at, (size_t)la->head_dim * sizeof *value);
    prepare(run, la, &la->k_norm, row, key);
    ed_store_row(run->kernels, view->store, head, run->input->trunk + run->input->handles[row], key,
                 value);
}

void ed_heads(EdRun *run, EdWorker *me, const EdView *view, int keys, int queries)
{
    int parts = (run->rows + TOGETHER - 1) / TOGETHER;
    while (ed_team_take(me, 1, (keys + queries) * parts)) {
        for (int i = me->next; i < me->end; i++) {
            int head = i / parts, row = i % parts * TOGETHER;
            int end = ed_least(row + TOGETHER, run->rows);
            for (; row < end; row++) {
                if (head < keys)
                    key_and_value(run, view, row, head);
                else
                    ed_query(run, view, row, head - keys);
            }
        }
    }
}
