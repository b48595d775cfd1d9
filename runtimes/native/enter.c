/* From the stream to the matrices: what is pending is done, then rows are normed and packed. */
#include <string.h>

#include "model.h"

static float *row_of(float *buffer, int row, int width)
{
    return buffer + (size_t)row * (size_t)width;
}

static void settle_row(const EdProgram *p, int row)
{
    const EdRun *run = &p->run;
    int dim = run->model->spec.dim;
    float *x = row_of(run->buffers->x, row, dim), *y = row_of(run->buffers->y, row, dim);
    if (p->pending == ED_NORM_AND_ADD)
        ed_normalise(run, p->pending_norm, dim, y);
    if (p->pending == ED_ADD_Y || p->pending == ED_NORM_AND_ADD)
        run->kernels->add(x, y, dim, x);
    if (p->pending == ED_NORM_IN_PLACE)
        ed_normalise(run, p->pending_norm, dim, x);
}

void ed_settle(EdProgram *p, EdWorker *me)
{
    if (p->pending == ED_NOTHING)
        return;
    while (ed_team_take(me, 1, p->run.rows))
        for (int row = me->next; row < me->end; row++)
            settle_row(p, row);
    p->pending = ED_NOTHING;
}

/* The rows of one group on their way: where they come from, and their spreads. */
typedef struct {
    int number, rows;
    const float *x[ED_GROUP];
    EdSpread spread[ED_GROUP];
} Group;

static void open_group(const EdRun *run, Group *group, int number, const EdEntry *entry)
{
    int dim = run->model->spec.dim;
    group->number = number;
    group->rows = ed_least(entry->rows - number * ED_GROUP, ED_GROUP);
    for (int r = 0; r < group->rows; r++) {
        int row = number * ED_GROUP + r;
        group->x[r] = row_of(run->buffers->x, entry->which ? entry->which[row] : row, dim);
        if (entry->norm)
            group->spread[r] =
                run->kernels->spread(group->x[r], dim, entry->norm->kind, entry->norm->eps);
    }
}

static void pack_block(const EdRun *run, const Group *group, int block, const EdEntry *entry,
                       EdRows *to)
{
    int first = block * entry->like->block;
    int count = ed_least(run->model->spec.dim - first, entry->like->block);
    float normed[ED_GROUP * ED_MOST_BLOCK];
    for (int r = 0; r < group->rows; r++) {
        const float *x = group->x[r] + first;
        if (entry->norm) {
            const float *bias = ed_floats(run->model, entry->norm->bias);
            run->kernels->normalise(x, count, group->spread[r],
                                    ed_floats(run->model, entry->norm->weight) + first,
                                    bias ? bias + first : NULL, normed + r * ED_MOST_BLOCK);
        } else {
            memcpy(normed + r * ED_MOST_BLOCK, x, (size_t)count * sizeof *x);
        }
    }
    ed_pack_group(run, to, entry->like, normed, ED_MOST_BLOCK, block,
                  group->number, entry->rows);
}

/* A thread packs blocks of all rows of a group, since rows of a group share cache lines; so each
 * finds the spreads for itself. */
void ed_enter(EdProgram *p, EdWorker *me, const EdEntry *entry)
{
    int blocks = ed_blocks(entry->like), groups = (entry->rows + ED_GROUP - 1) / ED_GROUP;
    Group group = {.number = -1};
    ed_settle(p, me);
    while (ed_team_take(me, 1, groups * blocks)) {
        for (int i = me->next; i < me->end; i++) {
            if (i / blocks != group.number)
                open_group(&p->run, &group, i / blocks, entry);
            pack_block(&p->run, &group, i % blocks, entry, p->run.buffers->packed[0]);
        }
    }
}

/* --- few rows --------------------------------------------------------------------------------- */

/* So many rows and numbers are packed sooner than threads have waited for each other, and fetched
 * what the others packed. */
#define FEW_ROWS 8
#define FEW_NUMBERS 4096

int ed_are_few(const EdRun *run, int rows)
{
    return rows <= FEW_ROWS && rows * run->model->spec.dim <= FEW_NUMBERS;
}

/* The stream stays as it is until all pieces are done, and this thread has one to do. */
void ed_entered(const EdRun *run, const EdWorker *me, EdProducts *products)
{
    const EdEntry *entry = products->entry;
    EdRows *to;
    Group group;
    if (products->from)
        return;
    to = &run->buffers->entered[me->index];
    open_group(run, &group, 0, entry);
    for (int block = 0; block < ed_blocks(entry->like); block++)
        pack_block(run, &group, block, entry, to);
    products->from = to;
}
