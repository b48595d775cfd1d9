/* From rows to queries, keys and values: products, norms and rotary positions, head by head.
 *
 * A piece is a head of q, or one of k and v together, so what products make stays with the thread
 * that goes on with it. Keys and values are rounded as they are stored, before anything uses them.
 */
#include <string.h>

#include "model.h"

/* Rows of one head that are done together, so that threads do not write the same cache lines. */
#define TOGETHER (2 * ED_GROUP)

/* One head of the rows of a group. What products make begins with a whole tile. */
typedef struct {
    float lines[ED_GROUP][ED_MOST_HEAD_DIM + ED_PAIR];
    int first; /* of a line's numbers, the first that belongs to the head */
} Head;

/* Rows [row, end) of the step, and the view that they are for. */
typedef struct {
    const EdRun *run;
    const EdView *view;
    const EdProducts *products;
    int row, end;
} Part;

static void multiply(const Part *part, int target, int head, int group, Head *to)
{
    int dim = part->view->spec->head_dim, column = head * dim;
    to->first = column % 16;
    ed_columns(part->run, part->products, target, column, dim, group, to->lines[0],
               ED_MOST_HEAD_DIM + ED_PAIR);
}

/* A row's numbers, with zeros behind them up to the store's width. */
static float *line_of(const Part *part, Head *head, int row)
{
    int dim = part->view->spec->head_dim;
    float *line = head->lines[row % ED_GROUP] + head->first;
    memset(line + dim, 0, (size_t)(ed_padded(dim, 16) - dim) * sizeof *line);
    return line;
}

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

static void put_query(const EdRun *run, const EdView *view, int row, int head, float *x)
{
    EdBuffers *b = run->buffers;
    const EdAttention *la = view->spec;
    int dim = ed_padded(la->head_dim, 16);
    size_t line = (size_t)head * (size_t)run->rows + (size_t)row;
    float *to = b->queries + line * (size_t)dim;
    int8_t *bytes = b->query_bytes + line * (size_t)dim;
    int32_t sum = 0;
    prepare(run, la, &la->q_norm, row, x);
    run->kernels->scale(x, la->scale, dim, to);
    if (view->store->kv_type != ED_KV_INT8)
        return;
    b->query_scales[line] = run->kernels->to_bytes(to, dim, bytes);
    for (int i = 0; i < dim; i++)
        sum += bytes[i];
    b->query_sums[line] = -8 * sum;
}

static void queries(const Part *part, int target, int head)
{
    Head q;
    for (int row = part->row; row < part->end; row++) {
        if (row % ED_GROUP == 0)
            multiply(part, target, head, row / ED_GROUP, &q);
        put_query(part->run, part->view, row, head, line_of(part, &q, row));
    }
}

/* Row i goes to the trunk + its handle. */
static void keys_and_values(const Part *part, int target, int head)
{
    const EdStep *step = part->run->input;
    Head k, v;
    for (int row = part->row; row < part->end; row++) {
        float *key, *value;
        if (row % ED_GROUP == 0) {
            multiply(part, target, head, row / ED_GROUP, &k);
            multiply(part, target + 1, head, row / ED_GROUP, &v);
        }
        key = line_of(part, &k, row);
        value = line_of(part, &v, row);
        prepare(part->run, part->view->spec, &part->view->spec->k_norm, row, key);
        ed_store_row(part->run->kernels, part->view->store, head, step->trunk + step->handles[row],
                     key, value);
    }
}

/* Keys and values of a head are followed by the queries that will meet them. */
void ed_heads(EdRun *run, EdWorker *me, const EdView *view, const EdProducts *p, EdHeads what)
{
    const EdAttention *la = view->spec;
    int group = what == ED_KEYS ? 0 : la->heads / la->kv_heads, keys = what != ED_QUERIES_ONLY;
    int parts = (run->rows + TOGETHER - 1) / TOGETHER;
    EdProducts mine = *p;
    ed_begin(run, p);
    while (ed_team_take(me, 1, la->kv_heads * (keys + group) * parts)) {
        ed_entered(run, me, &mine);
        for (int i = me->next; i < me->end; i++) {
            int row = i % parts * TOGETHER, head = i / parts / (keys + group);
            int which = i / parts % (keys + group);
            Part part = {run, view, &mine, row, ed_least(row + TOGETHER, run->rows)};
            if (which < keys)
                keys_and_values(&part, what == ED_KEYS ? 0 : 1, head);
            else
                queries(&part, 0, head * group + which - keys);
        }
    }
    ed_end(run, p);
}
