/* One packed matrix by itself: what a trained part of a strategy has beside layers. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* Products of fewer weights are done sooner than a second thread has woken up. */
enum { ALONE = 1 << 19 };

struct EdLinear {
    EdLinearSpec spec;
    EdModel over; /* the data, the kernels and the threads; it has no layers */
    EdRows packed;
    float *normed, *lines; /* [ED_GROUP, inputs], [ED_GROUP, stride] */
    int stride;            /* outputs padded to 16 */
};

static void *reserve(size_t numbers)
{
    return aligned_alloc(64, (4 * numbers + 63) / 64 * 64);
}

EdLinear *ed_linear_open(EdModel *model, const EdLinearSpec *spec, const void *data,
                         size_t data_size, char *error)
{
    EdLinear *linear = calloc(1, sizeof *linear);
    const EdMatrix *m;
    size_t blocks;
    if (!linear) {
        ed_fail(error, "no memory");
        return NULL;
    }
    linear->spec = *spec;
    m = &linear->spec.matrix;
    if (!ed_model_share(&linear->over, model, data, data_size, error) &&
        !ed_check_linear(&linear->over, spec, error)) {
        blocks = (size_t)ed_blocks(m);
        linear->stride = ed_padded(m->outputs, 16);
        linear->packed.values = reserve(blocks * (size_t)m->block * ED_GROUP / 4);
        linear->packed.scales = reserve(blocks * ED_GROUP);
        linear->packed.sums = reserve(blocks * ED_GROUP);
        linear->normed = reserve((size_t)m->inputs * ED_GROUP);
        linear->lines = reserve((size_t)linear->stride * ED_GROUP);
        if (linear->packed.values && linear->packed.scales && linear->packed.sums &&
            linear->normed && linear->lines)
            return linear;
        ed_fail(error, "no memory");
    }
    ed_linear_close(linear);
    return NULL;
}

void ed_linear_close(EdLinear *linear)
{
    if (!linear)
        return;
    free(linear->packed.values);
    free(linear->packed.scales);
    free(linear->packed.sums);
    free(linear->normed);
    free(linear->lines);
    free(linear);
}

int ed_linear_inputs(const EdLinear *linear)
{
    return linear->spec.matrix.inputs;
}

int ed_linear_outputs(const EdLinear *linear)
{
    return linear->spec.matrix.outputs;
}

/* A group of rows on their way. */
typedef struct {
    EdRun run;
    EdLinear *linear;
    EdProducts products;
    const float *x;
    int rows;
} Group;

static void pack(Group *group, int row)
{
    EdLinear *linear = group->linear;
    const EdLinearSpec *spec = &linear->spec;
    int inputs = spec->matrix.inputs;
    const float *x = group->x + (size_t)row * (size_t)inputs;
    if (spec->norm.kind) {
        float *y = linear->normed + (size_t)row * (size_t)inputs;
        linear->over.kernels->norm(x, inputs, spec->norm.kind, spec->norm.eps,
                                   ed_floats(&linear->over, spec->norm.weight),
                                   ed_floats(&linear->over, spec->norm.bias), y);
        x = y;
    }
    ed_pack_row(&group->run, &linear->packed, &spec->matrix, x, row, group->rows);
}

static void multiply(void *work, EdWorker *me)
{
    Group *group = work;
    while (ed_team_take(me, 1, group->rows))
        for (int row = me->next; row < me->end; row++)
            pack(group, row);
    ed_products(&group->run, me, &group->products);
}

static void run_group(EdLinear *linear, const float *x, int rows, float *y)
{
    const EdLinearSpec *spec = &linear->spec;
    Group group = {.run = {.model = &linear->over, .kernels = linear->over.kernels},
                   .linear = linear,
                   .products = {.finish = ED_PUT,
                                .rows = rows,
                                .from = &linear->packed,
                                .scale = spec->scale,
                                .softcap = spec->softcap},
                   .x = x,
                   .rows = rows};
    ed_into(&group.products, &linear->over, &spec->matrix, spec->bias, y, linear->stride);
    if ((int64_t)spec->matrix.inputs * spec->matrix.outputs <= ALONE)
        ed_team_alone(multiply, &group);
    else
        ed_team_run(linear->over.team, multiply, &group);
}

void ed_linear_run(EdLinear *linear, const float *x, int rows, float *y)
{
    size_t inputs = (size_t)linear->spec.matrix.inputs;
    size_t outputs = (size_t)linear->spec.matrix.outputs;
    int whole = linear->spec.matrix.outputs == linear->stride;
    for (int first = 0; first < rows; first += ED_GROUP) {
        int count = ed_least(rows - first, ED_GROUP);
        float *to = y + (size_t)first * outputs;
        run_group(linear, x + (size_t)first * inputs, count, whole ? to : linear->lines);
        for (int row = 0; !whole && row < count; row++)
            memcpy(to + (size_t)row * outputs,
                   linear->lines + (size_t)row * (size_t)linear->stride, outputs * sizeof *to);
    }
}

void ed_linear_topk(EdLinear *linear, const float *x, int rows, int k, int32_t *ids, float *values)
{
    size_t inputs = (size_t)linear->spec.matrix.inputs;
    EdLines lines = {.kernels = linear->over.kernels,
                     .team = linear->over.team,
                     .numbers = linear->lines,
                     .count = linear->spec.matrix.outputs,
                     .stride = linear->stride};
    for (int first = 0; first < rows; first += ED_GROUP) {
        size_t at = (size_t)first * (size_t)k;
        lines.lines = ed_least(rows - first, ED_GROUP);
        run_group(linear, x + (size_t)first * inputs, lines.lines, linear->lines);
        ed_lines_topk(&lines, k, ids + at, values + at);
    }
}
