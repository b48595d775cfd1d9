/* What the files of the engine share: an opened model, a session, and the pieces of a step. */
#ifndef ED_MODEL_H
#define ED_MODEL_H

#include "edgedec.h"
#include "kernels.h"
#include "team.h"

struct EdModel {
    EdModelSpec spec;
    EdRope *ropes;
    EdLayer *layers;
    const unsigned char *data;
    size_t data_size;
    const EdKernels *kernels;
    EdTeam *team;
};

/* Keys and values of one layer, by kv head and chunk of 64 rows. fp16: keys [dim][64], values
 * [64][dim]. 8 bit: keys [dim / 4][64][4], values [16][dim][4], and a scale per row of each. dim is
 * padded to 16. */
typedef struct {
    unsigned char *keys, *values;
    float *key_scales, *value_scales;
    int dim;
} EdStore;

/* Which rows a row of the step sees: those at indices [0, prefix), then `extras`, rising. */
typedef struct {
    int prefix, extra_count;
    const int32_t *extras;
} EdSight;

/* Buffers for the rows of a step. Strides are in numbers, padded to 16 (see EdWidths). */
typedef struct {
    int rows; /* that fit into `memory`, which holds those up to `packed` */
    unsigned char *memory;
    size_t memory_size;
    float *queries, *query_scales; /* by kv head, head and row */
    int32_t *query_sums;
    int8_t *query_bytes;
    float *x, *y, *q, *k, *v, *mixed, *cosines, *sines;
    EdSight *sight;
    EdRows *packed[2]; /* one for each group of 8 rows: what products read, and what they make */
    float *logits;
    int32_t *extras;
    float *partials;
    unsigned char *scratch; /* scratch_size bytes for each thread */
    size_t logits_size, extras_size, partials_size, partial_floats, scratch_all, scratch_size;
} EdBuffers;

/* The widest things of a model, in numbers padded to 16 (or to blocks, for `inputs`). */
typedef struct {
    int dim, queries, keys, inputs, blocks, head_dim, heads, pairs;
} EdWidths;

struct EdSession {
    EdModel *model;
    int kv_type, capacity, chunks;
    EdStore *stores;
    unsigned char *memory;
    size_t memory_size;
    int32_t *positions; /* of all rows, by index */
    EdWidths widths;
    EdBuffers buffers;
    int lines; /* with logits, in the latest step */
};

/* One step as its phases see it. */
typedef struct {
    EdSession *session;
    const EdModel *model;
    const EdKernels *kernels;
    const EdStep *input;
    EdBuffers *buffers;
    int rows, reach; /* reach: the most rows that any row of the step sees */
} EdRun;

static inline int ed_padded(int count, int to)
{
    return (count + to - 1) / to * to;
}

static inline int ed_least(int a, int b)
{
    return a < b ? a : b;
}

static inline const float *ed_floats(const EdModel *model, uint64_t offset)
{
    return offset ? (const float *)(model->data + offset) : NULL;
}

static inline int ed_blocks(const EdMatrix *matrix)
{
    return (matrix->inputs + matrix->block - 1) / matrix->block;
}

/* x = norm(x) over its first `count` numbers. */
static inline void ed_normalise(const EdRun *run, const EdNorm *norm, int count, float *x)
{
    run->kernels->norm(x, count, norm->kind, norm->eps, ed_floats(run->model, norm->weight),
                       ed_floats(run->model, norm->bias), x);
}

int ed_fail(char *error, const char *format, ...);

/* check.c: refuses a description that would make a kernel read outside of the data. */
int ed_check(const EdModel *model, char *error);

/* buffers.c */
EdWidths ed_widths(const EdModel *model);
int ed_buffers_reserve(EdSession *session, const EdStep *step, char *error);
void ed_buffers_free(EdBuffers *buffers);

/* store.c */
int ed_stores_open(EdSession *session, char *error);
void ed_stores_close(EdSession *session);
void ed_store_row(const EdSession *session, int layer, int head, int index, const float *key,
                  const float *value);

/* rotary.c: cosines and sines [rows][pairs] of each rope, one after the other. */
void ed_rotary(EdRun *run, EdWorker *me);

/* What is still to be done to the stream x before the next part of a layer reads it. */
typedef enum { ED_NOTHING, ED_ADD_Y, ED_NORM_AND_ADD, ED_NORM_IN_PLACE } EdPending;

/* A step on its way; every thread has its own, and all are alike. */
typedef struct {
    EdRun run;
    EdPending pending;
    const EdNorm *pending_norm;
} EdProgram;

/* Which rows of the stream go into which matrix: `which` [rows], NULL: all; norm NULL: as they are;
 * `like`: a matrix, others with the same inputs and blocks will do. */
typedef struct {
    int rows;
    const int32_t *which;
    const EdNorm *norm;
    const EdMatrix *like;
} EdEntry;

/* enter.c */
void ed_settle(EdProgram *program, EdWorker *me);
void ed_enter(EdProgram *program, EdWorker *me, const EdEntry *entry);

/* embed.c */
void ed_embed(EdRun *run, EdWorker *me);

/* product.c: packed rows times one or more matrices of the same inputs. What ED_ACTIVATE and
 * ED_GATE make is packed for the matrix `next`. */
typedef enum { ED_PUT, ED_ADD, ED_ACTIVATE, ED_GATE } EdFinish;

typedef struct {
    const EdMatrix *matrix;
    const float *bias;
    float *out;
    int stride;
} EdTarget;

typedef struct {
    EdFinish finish;
    int count, rows, activation; /* of targets; of rows */
    EdTarget targets[3];
    const EdRows *from;
    const EdMatrix *next;
    EdRows *to;
    float scale, softcap;
} EdProducts;

void ed_products(EdRun *run, EdWorker *me, const EdProducts *products);
/* Row `row` of `rows` as the matrix `like` reads it; one block of it, x being the block's numbers;
 * the same block of all rows of a group, lines of x being `stride` numbers long. */
void ed_pack_row(const EdRun *run, EdRows *to, const EdMatrix *like, const float *x, int row,
                 int rows);
void ed_pack_block(const EdRun *run, EdRows *to, const EdMatrix *like, const float *x, int block,
                   int row, int rows);
void ed_pack_group(const EdRun *run, EdRows *to, const EdMatrix *like, const float *x,
                   size_t stride, int block, int group, int rows);

/* heads.c: from q, k and v to queries and to the stores. */
void ed_heads(EdRun *run, EdWorker *me, int layer);

/* attend.c: from queries and the stores to rows packed for the matrix o. */
void ed_attend(EdRun *run, EdWorker *me, int layer);

/* piece.c: some queries of one kv head over some chunks of their paths. */
typedef struct {
    const EdRun *run;
    const EdLayer *layer;
    const EdStore *store;
    int head, first, count, dim; /* kv head; queries; the store's width */
    float *scores, *live;
    EdParts chunk, span, total; /* the latest chunk; a span, and all spans, so far */
    int32_t *integers;
    int8_t *weights;
} EdPiece;

/* Bytes that the buffers of a piece take, and where they lie. */
size_t ed_piece_size(const EdSession *session, const EdStep *step);
void ed_piece_place(EdPiece *piece, const EdStep *step, unsigned char *scratch);
/* The scores of the rows at the end of the trunk and of the living ones. */
void ed_piece_live(EdPiece *piece);
/* scores, sums, largest and mixed of all queries for one chunk. */
void ed_piece_chunk(EdPiece *piece, int chunk);

#endif
