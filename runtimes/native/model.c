/* Opening a model, and choosing the instruction set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"
#include "model.h"

#define MOST_LAYERS 10000
#define MOST_THREADS 256
/* Of step.c, rounded up. */
#define PHASES_PER_LAYER 24
#define PHASES_BESIDES 16
#define MISPLACED "the data does not begin at a multiple of 64 bytes"

static int take(void *to, const unsigned char **from, size_t *left, size_t size)
{
    if (*left < size)
        return -1;
    memcpy(to, *from, size);
    *from += size;
    *left -= size;
    return 0;
}

static int read_spec(EdModel *model, const unsigned char *spec, size_t left, char *error)
{
    const EdModelSpec *head = &model->spec;
    if (take(&model->spec, &spec, &left, sizeof model->spec))
        return ed_fail(error, "the description is too short");
    if (head->version != ED_SPEC_VERSION || head->layer_size != sizeof(EdLayer))
        return ed_fail(error, "the description has version %u, this engine reads %u", head->version,
                       ED_SPEC_VERSION);
    if (head->layers < 1 || head->layers > MOST_LAYERS || head->ropes < 0 ||
        head->ropes > head->layers)
        return ed_fail(error, "%d layers and %d ropes", head->layers, head->ropes);
    model->ropes = calloc((size_t)head->ropes + 1, sizeof *model->ropes);
    model->layers = calloc((size_t)head->layers, sizeof *model->layers);
    if (!model->ropes || !model->layers)
        return ed_fail(error, "no memory");
    if (take(model->ropes, &spec, &left, (size_t)head->ropes * sizeof *model->ropes) ||
        take(model->layers, &spec, &left, (size_t)head->layers * sizeof *model->layers) || left)
        return ed_fail(error, "the description does not have the size of its layers");
    for (int i = 0; i < head->layers; i++)
        model->crosses |= model->layers[i].cross.q.weight != 0;
    return 0;
}

static int phases_of(const EdModel *model)
{
    return PHASES_PER_LAYER * model->spec.layers + PHASES_BESIDES;
}

EdModel *ed_model_open(const void *spec, size_t spec_size, const void *data, size_t data_size,
                       const char *isa, int threads, char *error)
{
    EdModel *model = calloc(1, sizeof *model);
    if (!model) {
        ed_fail(error, "no memory");
        return NULL;
    }
    model->data = data;
    model->data_size = data_size;
    model->kernels = ed_kernels_named(isa);
    if (!model->kernels)
        ed_fail(error, "this machine has no instruction set '%s'", isa);
    else if (threads < 1 || threads > MOST_THREADS)
        ed_fail(error, "%d threads; 1 to %d can be used", threads, MOST_THREADS);
    else if ((uintptr_t)data % 64)
        ed_fail(error, MISPLACED);
    else if (!read_spec(model, spec, spec_size, error) && !ed_check(model, error)) {
        model->team = ed_team_open(threads, phases_of(model));
        if (model->team)
            return model;
        ed_fail(error, "no memory");
    }
    ed_model_close(model);
    return NULL;
}

int ed_model_share(EdModel *model, EdModel *first, const void *data, size_t data_size, char *error)
{
    model->data = data ? data : first->data;
    model->data_size = data ? data_size : first->data_size;
    model->kernels = first->kernels;
    model->team = first->team;
    model->beside = first;
    return (uintptr_t)model->data % 64 ? ed_fail(error, MISPLACED) : 0;
}

EdModel *ed_model_beside(EdModel *first, const void *spec, size_t spec_size, const void *data,
                         size_t data_size, char *error)
{
    EdModel *model = calloc(1, sizeof *model);
    if (!model) {
        ed_fail(error, "no memory");
        return NULL;
    }
    if (!ed_model_share(model, first, data, data_size, error) &&
        !read_spec(model, spec, spec_size, error) && !ed_check(model, error)) {
        if (!ed_team_widen(model->team, phases_of(model)))
            return model;
        ed_fail(error, "no memory");
    }
    ed_model_close(model);
    return NULL;
}

void ed_model_close(EdModel *model)
{
    if (!model)
        return;
    if (!model->beside)
        ed_team_close(model->team);
    free(model->ropes);
    free(model->layers);
    free(model);
}

const char *ed_model_isa(const EdModel *model)
{
    return model->kernels->name;
}

int ed_model_dim(const EdModel *model)
{
    return model->spec.dim;
}
