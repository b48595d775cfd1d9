/* Rows entering the model: embeddings, positions, and the norm of the embedding; and the angles of
 * their rotary positions. */
#include <string.h>

#include "half.h"
#include "model.h"

/* One output of a packed matrix: [inputs]. */
static void unpack(const EdModel *model, const EdMatrix *m, int output, float *to)
{
    int tile = output / 16, lane = output % 16, blocks = ed_blocks(m);
    size_t size = (size_t)(2 * m->block * m->bits);
    for (int b = 0; b < blocks; b++) {
        size_t at = (size_t)tile * (size_t)blocks + (size_t)b;
        const unsigned char *bytes = model->data + m->weight + at * size;
        const uint16_t *scales = (const uint16_t *)(model->data + m->scales) + at * 16;
        float scale = ed_half_to_float(scales[lane]);
        for (int i = 0; i < m->block && b * m->block + i < m->inputs; i++) {
            int group = i / 4, place = lane * 4 + i % 4, value;
            if (m->bits == 4)
                value = (bytes[group / 2 * 64 + place] >> group % 2 * 4 & 15) - 8;
            else
                value = (int8_t)bytes[group * 64 + place];
            to[b * m->block + i] = scale * (float)value;
        }
    }
}

int ed_model_embed(const EdModel *model, const int32_t *ids, int count, float *vectors, char *error)
{
    const EdModelSpec *spec = &model->spec;
    for (int i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= spec->vocab)
            return ed_fail(error, "the id %d of %d", ids[i], spec->vocab);
    for (int i = 0; i < count; i++) {
        float *x = vectors + (size_t)i * (size_t)spec->dim;
        unpack(model, &spec->embed, ids[i], x);
        if (spec->embed_scale != 1.0f)
            model->kernels->scale(x, spec->embed_scale, spec->dim, x);
    }
    return 0;
}

static void enter(EdRun *run, int row, float *x)
{
    const EdModel *model = run->model;
    const EdModelSpec *spec = &model->spec;
    const EdStep *step = run->input;
    const float *vector = NULL;
    if (step->vectors)
        vector = step->vectors + (size_t)row * (size_t)spec->dim;
    else if (step->tokens[row] >= spec->vocab)
        vector = step->learned + (size_t)(step->tokens[row] - spec->vocab) * (size_t)spec->dim;
    if (vector)
        memcpy(x, vector, (size_t)spec->dim * sizeof *x);
    else
        unpack(model, &spec->embed, step->tokens[row], x);
    if (step->ranges[0] > 0)
        return; /* hidden states of a later layer */
    if (spec->embed_scale != 1.0f)
        run->kernels->scale(x, spec->embed_scale, spec->dim, x);
    if (spec->positions) {
        size_t line = (size_t)(step->positions[row] + spec->position_offset);
        const float *table = ed_floats(model, spec->positions);
        run->kernels->add(x, table + line * (size_t)spec->dim, spec->dim, x);
    }
    if (spec->embed_norm.kind)
        ed_normalise(run, &spec->embed_norm, spec->dim, x);
}

/* Cosines and sines [rows][pairs] of each rope, one after the other. */
static void turn(const EdRun *run, int row)
{
    const EdModel *model = run->model;
    size_t pairs = (size_t)run->session->widths.pairs;
    for (int i = 0; i < model->spec.ropes; i++) {
        const EdRope *rope = &model->ropes[i];
        size_t at = ((size_t)i * (size_t)run->rows + (size_t)row) * pairs;
        run->kernels->turn((const double *)(model->data + rope->frequencies),
                           run->input->positions[row], rope->magnitude, rope->pairs,
                           run->buffers->cosines + at, run->buffers->sines + at);
    }
}

void ed_embed(EdRun *run, EdWorker *me, int turned)
{
    while (ed_team_take(me, 1, turned ? 2 * run->rows : run->rows)) {
        for (int i = me->next; i < me->end; i++) {
            if (i < run->rows)
                enter(run, i, run->buffers->x + (size_t)i * (size_t)run->session->widths.dim);
            else
                turn(run, i - run->rows);
        }
    }
}
