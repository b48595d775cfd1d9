/* A description may come from anywhere: nothing is read before it was found to fit the data. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "model.h"

/* Sizes beyond these are mistakes; products of two stay within 64 bits, of one with 128 in 32. */
#define MOST_WIDTH (1 << 22)
#define MOST_HEADS 4096

int ed_fail(char *error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, ED_ERROR_SIZE, format, arguments);
    va_end(arguments);
    return -1;
}

static int fits(const EdModel *model, uint64_t offset, uint64_t bytes)
{
    return offset % 64 == 0 && offset <= model->data_size && bytes <= model->data_size - offset;
}

static int check_vector(const EdModel *model, uint64_t offset, int count, const char *name,
                        char *error)
{
    if (fits(model, offset, 4 * (uint64_t)ed_padded(count, 16)))
        return 0;
    return ed_fail(error, "%s lies outside of the data", name);
}

static int check_norm(const EdModel *model, const EdNorm *norm, int count, const char *name,
                      char *error)
{
    if (norm->kind == ED_NORM_NONE)
        return 0;
    if (norm->kind != ED_NORM_RMS && norm->kind != ED_NORM_LAYER)
        return ed_fail(error, "%s is of kind %d", name, norm->kind);
    if (norm->kind == ED_NORM_LAYER && count % 16)
        return ed_fail(error, "%s is over %d numbers, not a multiple of 16", name, count);
    if (!norm->weight || !(norm->eps >= 0.0f))
        return ed_fail(error, "%s has no weight or a wrong eps", name);
    if (check_vector(model, norm->weight, count, name, error))
        return -1;
    return norm->bias ? check_vector(model, norm->bias, count, name, error) : 0;
}

static int check_matrix(const EdModel *model, const EdMatrix *m, int outputs, int inputs,
                        const char *name, char *error)
{
    uint64_t cells;
    if (m->outputs != outputs || m->inputs != inputs)
        return ed_fail(error, "%s is [%d, %d], not [%d, %d]", name, m->outputs, m->inputs, outputs,
                       inputs);
    if (m->bits != 4 && m->bits != 8)
        return ed_fail(error, "%s has %d bits, not 4 or 8", name, m->bits);
    if (m->block != 32 && m->block != 64 && m->block != 128)
        return ed_fail(error, "%s has blocks of %d, not 32, 64 or 128", name, m->block);
    cells = (uint64_t)(ed_padded(outputs, 16) / 16) * (uint64_t)ed_blocks(m);
    if (!m->weight || !fits(model, m->weight, cells * 2 * (uint64_t)m->block * (uint64_t)m->bits) ||
        !m->scales || !fits(model, m->scales, cells * 32))
        return ed_fail(error, "%s lies outside of the data", name);
    return 0;
}

/* A bias of each of the matrices, where there is one. */
typedef struct {
    uint64_t offset;
    int count;
} Bias;

static int check_biases(const EdModel *model, const Bias *biases, int count, char *error)
{
    for (int i = 0; i < count; i++)
        if (check_vector(model, biases[i].offset, biases[i].count, "a bias", error))
            return -1;
    return 0;
}

static int check_distances(const EdModel *model, const EdAttention *la, char *error)
{
    if (la->distances < 0 || (la->distance_bias && !la->distances) ||
        !fits(model, la->distance_bias, 4 * (uint64_t)la->heads * (uint64_t)la->distances))
        return ed_fail(error, "the distance bias lies outside of the data");
    if (la->origin < 0 || la->origin > la->distances)
        return ed_fail(error, "the distance bias begins at %d of %d", la->origin, la->distances);
    return 0;
}

static int check_attention(const EdModel *model, const EdAttention *la, char *error)
{
    int dim = model->spec.dim, queries, keys;
    if (la->heads < 1 || la->heads > MOST_HEADS || la->kv_heads < 1 || la->heads % la->kv_heads ||
        la->head_dim < 1 || la->head_dim > ED_MOST_HEAD_DIM)
        return ed_fail(error, "%d heads of %d over %d key heads", la->heads, la->head_dim,
                       la->kv_heads);
    if (la->rope < -1 || la->rope >= model->spec.ropes ||
        (la->rope >= 0 && 2 * model->ropes[la->rope].pairs > la->head_dim))
        return ed_fail(error, "a layer turns more than its heads have");
    if (la->window < 0 || !isfinite(la->scale) || !(la->softcap >= 0.0f))
        return ed_fail(error, "a layer has a wrong window, scale or cap");
    queries = la->heads * la->head_dim;
    keys = la->kv_heads * la->head_dim;
    if (check_matrix(model, &la->q, queries, dim, "q", error) ||
        check_matrix(model, &la->k, keys, dim, "k", error) ||
        check_matrix(model, &la->v, keys, dim, "v", error) ||
        check_matrix(model, &la->o, dim, queries, "o", error) ||
        check_norm(model, &la->q_norm, la->head_dim, "q_norm", error) ||
        check_norm(model, &la->k_norm, la->head_dim, "k_norm", error) ||
        check_distances(model, la, error))
        return -1;
    if (la->k.block != la->v.block)
        return ed_fail(error, "k and v have different blocks");
    return check_biases(
        model,
        (Bias[]){{la->q_bias, queries}, {la->k_bias, keys}, {la->v_bias, keys}, {la->o_bias, dim}},
        4, error);
}

static int check_own(const EdModel *model, const EdLayer *la, char *error)
{
    if (check_attention(model, &la->own, error))
        return -1;
    if (la->own.q.block != la->own.k.block)
        return ed_fail(error, "q and k have different blocks");
    return 0;
}

static int check_cross(const EdModel *model, const EdLayer *la, char *error)
{
    if (!la->cross.q.weight)
        return 0;
    if (model->spec.encoder)
        return ed_fail(error, "an encoder's layer has cross-attention");
    if (la->cross.rope != -1 || la->cross.window || la->cross.distance_bias)
        return ed_fail(error, "cross-attention knows no distances");
    if (check_attention(model, &la->cross, error) ||
        check_norm(model, &la->cross_norm, model->spec.dim, "cross_norm", error) ||
        check_norm(model, &la->cross_post_norm, model->spec.dim, "cross_post_norm", error))
        return -1;
    if (la->cross_norm.kind == ED_NORM_NONE ||
        (la->norm_order == ED_SANDWICH && la->cross_post_norm.kind == ED_NORM_NONE))
        return ed_fail(error, "cross-attention has no norm");
    return 0;
}

static int check_mlp(const EdModel *model, const EdLayer *la, char *error)
{
    int dim = model->spec.dim, width = la->up.outputs;
    if (width < 1 || width > MOST_WIDTH)
        return ed_fail(error, "a layer is %d wide", width);
    if (check_matrix(model, &la->up, width, dim, "up", error) ||
        check_matrix(model, &la->down, dim, width, "down", error))
        return -1;
    if (la->gate.weight && check_matrix(model, &la->gate, width, dim, "gate", error))
        return -1;
    if (la->gate.weight && la->gate.block != la->up.block)
        return ed_fail(error, "gate and up have different blocks");
    if (la->activation < ED_SILU || la->activation > ED_RELU)
        return ed_fail(error, "there is no activation %d", la->activation);
    return check_biases(
        model, (Bias[]){{la->gate_bias, width}, {la->up_bias, width}, {la->down_bias, dim}}, 3,
        error);
}

static int check_layer(const EdModel *model, const EdLayer *la, char *error)
{
    int dim = model->spec.dim;
    if (la->norm_order < ED_PRE || la->norm_order > ED_PARALLEL)
        return ed_fail(error, "there is no norm order %d", la->norm_order);
    if (check_mlp(model, la, error) || check_own(model, la, error) ||
        check_cross(model, la, error) ||
        check_norm(model, &la->attention_norm, dim, "attention_norm", error) ||
        check_norm(model, &la->mlp_norm, dim, "mlp_norm", error) ||
        check_norm(model, &la->attention_post_norm, dim, "attention_post_norm", error) ||
        check_norm(model, &la->mlp_post_norm, dim, "mlp_post_norm", error))
        return -1;
    if (la->attention_norm.kind == ED_NORM_NONE || la->mlp_norm.kind == ED_NORM_NONE)
        return ed_fail(error, "a layer has no norm");
    if (la->norm_order == ED_SANDWICH &&
        (la->attention_post_norm.kind == ED_NORM_NONE || la->mlp_post_norm.kind == ED_NORM_NONE))
        return ed_fail(error, "a layer has no norm after its parts");
    return 0;
}

static int check_ropes(const EdModel *model, char *error)
{
    for (int i = 0; i < model->spec.ropes; i++) {
        const EdRope *rope = &model->ropes[i];
        if (rope->pairs < 1 || rope->pairs > ED_MOST_HEAD_DIM || !isfinite(rope->magnitude) ||
            !rope->frequencies || !fits(model, rope->frequencies, 8 * (uint64_t)rope->pairs))
            return ed_fail(error, "the rotary frequencies lie outside of the data");
    }
    return 0;
}

/* An encoder has no head and, where rows enter as vectors, no embedding. */
static int check_tables(const EdModel *model, char *error)
{
    const EdModelSpec *spec = &model->spec;
    int least = spec->encoder ? 0 : 1;
    if (spec->encoder < 0 || spec->encoder > 1)
        return ed_fail(error, "there is no model of kind %d", spec->encoder);
    if (spec->vocab < least || spec->vocab > 1 << 26 || spec->context < 1)
        return ed_fail(error, "%d tokens, a context of %d", spec->vocab, spec->context);
    if (spec->vocab && check_matrix(model, &spec->embed, spec->vocab, spec->dim, "embed", error))
        return -1;
    if (spec->encoder)
        return 0;
    if (check_matrix(model, &spec->head, spec->vocab, spec->dim, "head", error))
        return -1;
    return check_vector(model, spec->head_bias, spec->vocab, "head.bias", error);
}

int ed_check_linear(const EdModel *over, const EdLinearSpec *spec, char *error)
{
    const EdMatrix *m = &spec->matrix;
    if (m->outputs < 1 || m->outputs > 1 << 26 || m->inputs < 16 || m->inputs > MOST_WIDTH ||
        m->inputs % 16)
        return ed_fail(error, "a matrix of [%d, %d]", m->outputs, m->inputs);
    if (!isfinite(spec->scale) || !(spec->softcap >= 0.0f))
        return ed_fail(error, "a matrix with a wrong scale or cap");
    if (check_matrix(over, m, m->outputs, m->inputs, "the matrix", error) ||
        check_norm(over, &spec->norm, m->inputs, "the norm", error))
        return -1;
    return check_vector(over, spec->bias, m->outputs, "the bias", error);
}

int ed_check(const EdModel *model, char *error)
{
    const EdModelSpec *spec = &model->spec;
    if (spec->dim < 16 || spec->dim > MOST_WIDTH || spec->dim % 16)
        return ed_fail(error, "a width of %d is not a multiple of 16", spec->dim);
    if (check_tables(model, error) ||
        check_norm(model, &spec->embed_norm, spec->dim, "embed_norm", error) ||
        check_norm(model, &spec->final_norm, spec->dim, "final_norm", error) ||
        check_norm(model, &spec->source_norm, spec->dim, "source_norm", error) ||
        check_ropes(model, error))
        return -1;
    if (spec->positions &&
        (spec->position_rows < 1 || spec->position_offset < 0 ||
         (int64_t)spec->context + spec->position_offset > spec->position_rows ||
         !fits(model, spec->positions, 4 * (uint64_t)spec->position_rows * (uint64_t)spec->dim)))
        return ed_fail(error, "the position table lies outside of the data");
    for (int i = 0; i < spec->layers; i++)
        if (check_layer(model, &model->layers[i], error))
            return -1;
    return 0;
}
