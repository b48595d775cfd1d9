/* Matrix products of a step: tiles are shared out among the threads, and some rows at once pass by
 * each. Who computes a tile changes no bit of it.
 */
#include <string.h>

#include "model.h"

static int rows_in(int rows, int group)
{
    return ed_least(rows - group * ED_GROUP, ED_GROUP);
}

void ed_pack_row(const EdRun *run, EdRows *to, const EdMatrix *like, const float *x, int row,
                 int rows)
{
    int group = row / ED_GROUP;
    run->kernels->quantise(x, ed_padded(like->inputs, 16), ed_blocks(like) * like->block,
                           like->block, row % ED_GROUP, rows_in(rows, group), &to[group]);
}

/* The packed rows of a group from a block on, and how many of its numbers the matrix has. */
static EdRows block_of(const EdRows *group, const EdMatrix *like, int block, int rows, int *count)
{
    int left = ed_padded(like->inputs, 16) - block * like->block;
    *count = ed_least(left, like->block);
    return (EdRows){
        group->values + (size_t)block * (size_t)(like->block * rows),
        group->scales + block * rows,
        group->sums + block * rows,
    };
}

void ed_pack_block(const EdRun *run, EdRows *to, const EdMatrix *like, const float *x, int block,
                   int row, int rows)
{
    int group = row / ED_GROUP, here = rows_in(rows, group), count;
    const EdRows at = block_of(&to[group], like, block, here, &count);
    run->kernels->quantise(x, count, like->block, like->block, row % ED_GROUP, here, &at);
}

void ed_pack_group(const EdRun *run, EdRows *to, const EdMatrix *like, const float *x,
                   size_t stride, int block, int group, int rows)
{
    int here = rows_in(rows, group), count;
    const EdRows at = block_of(&to[group], like, block, here, &count);
    run->kernels->quantise_rows(x, stride, count, like->block, here, &at);
}

/* `step`: how many tiles on the next one of this kind lies. */
static EdTile tile_of(const EdModel *model, const EdMatrix *m, int tile, int step)
{
    size_t blocks = (size_t)ed_blocks(m), first = (size_t)tile * blocks;
    size_t block = (size_t)(2 * m->block * m->bits);
    return (EdTile){
        model->data + m->weight + first * block,
        (const uint16_t *)(model->data + m->scales) + first * 16,
        (size_t)step * blocks * block,
    };
}

static int tiles(const EdMatrix *m)
{
    return (m->outputs + 15) / 16;
}

/* Rows from `first` on that one call takes. */
static int rows_from(const EdRun *run, const EdProducts *p, int first)
{
    return ed_least(p->rows - first, run->kernels->at_once);
}

static void multiply(const EdRun *run, const EdProducts *p, const EdMatrix *m, const EdTile *pair,
                     int first, int rows, float *out)
{
    EdProduct *product = m->bits == 4 ? run->kernels->product4 : run->kernels->product8;
    product(pair, &p->from[first / ED_GROUP], rows, ed_blocks(m), m->block / 32, out);
}

/* --- products that go to memory --------------------------------------------------------------- */

/* What is done to each line of `out` before it goes to memory. */
static void finish(const EdRun *run, const EdProducts *p, const EdTarget *to, int column, int width,
                   int rows, float *out)
{
    const EdKernels *k = run->kernels;
    for (int r = 0; r < rows; r++) {
        float *line = out + r * ED_PAIR;
        if (to->bias)
            k->add(line, to->bias + column, width, line);
        if (p->scale != 1.0f)
            k->scale(line, p->scale, width, line);
        if (p->softcap != 0.0f)
            k->soften(line, p->softcap, width);
    }
}

/* Two neighbouring tiles of a matrix. */
static void plain_pair(const EdRun *run, const EdProducts *p, const EdTarget *to, int pair)
{
    const EdMatrix *m = to->matrix;
    int first = 2 * pair, count = tiles(m), width = first + 1 < count ? 32 : 16;
    const EdTile both[2] = {tile_of(run->model, m, first, 2),
                            tile_of(run->model, m, ed_least(first + 1, count - 1), 2)};
    float out[ED_MOST_AT_ONCE * ED_PAIR];
    for (int row = 0; row < p->rows; row += run->kernels->at_once) {
        int rows = rows_from(run, p, row);
        float *y = to->out + (size_t)row * (size_t)to->stride + 16 * first;
        multiply(run, p, m, both, row, rows, out);
        if (to->bias || p->scale != 1.0f || p->softcap != 0.0f)
            finish(run, p, to, 16 * first, width, rows, out);
        if (p->finish == ED_ADD)
            run->kernels->add_rows(out, width, rows, y, (size_t)to->stride);
        else
            run->kernels->put_rows(out, width, rows, y, (size_t)to->stride);
    }
}

void ed_columns(const EdRun *run, const EdProducts *p, int target, int column, int count, int group,
                float *to, size_t stride)
{
    const EdTarget *from = &p->targets[target];
    const EdMatrix *m = from->matrix;
    int rows = rows_in(p->rows, group), end = (column + count + 15) / 16;
    float out[ED_GROUP * ED_PAIR];
    for (int tile = column / 16; tile < end; tile += 2, to += ED_PAIR) {
        int width = tile + 1 < end ? 32 : 16;
        const EdTile both[2] = {tile_of(run->model, m, tile, 2),
                                tile_of(run->model, m, ed_least(tile + 1, end - 1), 2)};
        multiply(run, p, m, both, group * ED_GROUP, rows, out);
        if (from->bias)
            finish(run, p, from, 16 * tile, width, rows, out);
        run->kernels->put_rows(out, width, rows, to, stride);
    }
}

static void plain(EdRun *run, EdWorker *me, const EdProducts *p)
{
    EdProducts mine = *p;
    int ends[3] = {0}, all = 0;
    for (int i = 0; i < p->count; i++)
        ends[i] = all += (tiles(p->targets[i].matrix) + 1) / 2;
    while (ed_team_take(me, 1, all)) {
        ed_entered(run, me, &mine);
        for (int i = me->next; i < me->end; i++) {
            int which = 0;
            while (i >= ends[which])
                which++;
            plain_pair(run, &mine, &p->targets[which], which ? i - ends[which - 1] : i);
        }
    }
}

/* --- products that go on to the next matrix --------------------------------------------------- */

/* One tile of gate and up, side by side: act(gate) * up for the rows from `first` on. */
static void gated_tile(const EdRun *run, const EdProducts *p, int tile, int first, float *to)
{
    const EdTarget *gate = &p->targets[0], *up = &p->targets[1];
    EdTile both[2] = {tile_of(run->model, gate->matrix, tile, 1),
                      tile_of(run->model, up->matrix, tile, 1)};
    int rows = rows_from(run, p, first);
    float out[ED_MOST_AT_ONCE * ED_PAIR], other[ED_MOST_AT_ONCE * ED_PAIR];
    multiply(run, p, gate->matrix, both, first, rows, out);
    if (gate->matrix->bits != up->matrix->bits) {
        multiply(run, p, up->matrix, (EdTile[2]){both[1], both[1]}, first, rows, other);
        run->kernels->put_rows(other, 16, rows, out + 16, ED_PAIR);
    }
    for (int r = 0; gate->bias && r < rows; r++)
        run->kernels->add(out + r * ED_PAIR, gate->bias + 16 * tile, 16, out + r * ED_PAIR);
    for (int r = 0; up->bias && r < rows; r++)
        run->kernels->add(out + r * ED_PAIR + 16, up->bias + 16 * tile, 16, out + r * ED_PAIR + 16);
    run->kernels->gate_rows(out, p->activation, rows, to, ED_MOST_BLOCK);
}

/* Two tiles of up; the second may be beyond the last. */
static void activated_pair(const EdRun *run, const EdProducts *p, int tile, int first, float *to)
{
    const EdTarget *up = &p->targets[0];
    int count = tiles(up->matrix), width = tile + 1 < count ? 32 : 16;
    int rows = rows_from(run, p, first);
    EdTile both[2] = {tile_of(run->model, up->matrix, tile, 2),
                      tile_of(run->model, up->matrix, ed_least(tile + 1, count - 1), 2)};
    float out[ED_MOST_AT_ONCE * ED_PAIR];
    multiply(run, p, up->matrix, both, first, rows, out);
    for (int r = 0; r < rows; r++) {
        float *line = out + r * ED_PAIR;
        if (up->bias)
            run->kernels->add(line, up->bias + 16 * tile, width, line);
        run->kernels->activate(line, p->activation, width);
    }
    run->kernels->put_rows(out, width, rows, to, ED_MOST_BLOCK);
}

/* What one block of the next matrix reads. */
static void packed_block(const EdRun *run, const EdProducts *p, int block)
{
    int per_block = p->next->block / 16, first = block * per_block;
    int end = ed_least(first + per_block, tiles(p->targets[0].matrix));
    int step = p->finish == ED_GATE ? 1 : 2;
    float hidden[ED_MOST_AT_ONCE * ED_MOST_BLOCK];
    for (int row = 0; row < p->rows; row += run->kernels->at_once) {
        int rows = rows_from(run, p, row);
        for (int tile = first; tile < end; tile += step) {
            float *to = hidden + 16 * (tile - first);
            if (p->finish == ED_GATE)
                gated_tile(run, p, tile, row, to);
            else
                activated_pair(run, p, tile, row, to);
        }
        for (int i = 0; i < rows; i += ED_GROUP)
            ed_pack_group(run, p->to, p->next, hidden + i * ED_MOST_BLOCK, ED_MOST_BLOCK, block,
                          (row + i) / ED_GROUP, p->rows);
    }
}

static void packed(EdRun *run, EdWorker *me, const EdProducts *p)
{
    EdProducts mine = *p;
    while (ed_team_take(me, 1, ed_blocks(p->next))) {
        ed_entered(run, me, &mine);
        for (int i = me->next; i < me->end; i++)
            packed_block(run, &mine, i);
    }
}

void ed_begin(const EdRun *run, const EdProducts *p)
{
    if (run->kernels->begin)
        run->kernels->begin(p->rows, p->targets[0].matrix->block);
}

void ed_end(const EdRun *run, const EdProducts *p)
{
    if (run->kernels->end)
        run->kernels->end(p->rows);
}

void ed_products(EdRun *run, EdWorker *me, const EdProducts *p)
{
    ed_begin(run, p);
    if (p->finish == ED_PUT || p->finish == ED_ADD)
        plain(run, me, p);
    else
        packed(run, me, p);
    ed_end(run, p);
}
