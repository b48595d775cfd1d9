/* What the files of the engine share: an opened model, a session, and the pieces of a step. */
#ifndef ED_MODEL_H
#define ED_MODEL_H

#include <stdatomic.h>

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
    EdModel *beside; /* whose team it is; NULL: its own */
    int crosses;     /* whether any layer has cross-attention */
};

/* Keys and values of one attention, by kv head and chunk of 64 rows. fp16: keys [dim][64], values
 * [64][dim]. 8 bit: keys [dim / 4][64][4], values [16][dim][4], and a scale per row of each. dim is
 * head_dim padded to 16. */
typedef struct {
    unsigned char *keys, *values;
    float *key_scales, *value_scales;
    int heads, head_dim, dim, chunks, kv_type;
} EdStore;

/* Those of all layers, in one block of memory; heads 0 where a layer has none. */
typedef struct {
    EdStore *of;
    int count;
    unsigned char *memory;
    size_t size;
} EdStores;

/* What cross-attention reads; once computed it never changes. */
typedef struct {
    atomic_int users;
    int rows;
    EdStores stores;
} EdSource;

/* Which rows a row of the step sees: those at indices [0, prefix), then `extras`, rising. */
typedef struct {
    int prefix, extra_count;
    const int32_t *extras;
} EdSight;

/* One attention of a step: what it is, where its keys are, and who sees them. */
typedef struct {
    const EdAttention *spec;
    const EdStore *store;
    const EdSight *sights;    /* of each row; NULL: all see `whole` */
    const int32_t *positions; /* of the keys, by index */
    EdSight whole;
    int common, living, reach; /* keys that every row sees, and those behind; the most one sees */
} EdView;

/* Buffers for the rows of a step. Strides are in numbers, padded to 16 (see EdWidths). */
typedef struct {
    int rows; /* that fit into `memory`, which holds those up to `packed` */
    unsigned char *memory;
    size_t memory_size;
    float *queries, *query_scales; /* by kv head, head and row */
    int32_t *query_sums;
    int8_t *query_bytes;
    float *x, *y, *mixed, *cosines, *sines;
    EdSight *sight;
    EdRows *packed[2]; /* by group of rows: what products read, and what they make */
    EdRows *entered;   /* one for each thread: what products read of few rows */
    float *logits;
    int32_t *extras;
    float *partials;
    unsigned char *scratch; /* scratch_size bytes for each thread */
    size_t logits_size, extras_size, partials_size, partial_floats, scratch_all, scratch_size;
} EdBuffers;

/* The widest things of a model, in numbers padded to 16 (or to blocks, for `inputs`). */
typedef struct {
    int dim, queries, inputs, blocks, head_dim, heads, pairs;
} EdWidths;

struct EdSession {
    EdModel *model;
    int kv_type, capacity;
    EdStores stores;
    EdSource *source;   /* NULL: none yet */
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

static inline const EdSight *ed_sight(const EdView *view, int row)
{
    return view->sights ? &view->sights[row] : &view->whole;
}

/* Of a session, or of a source, at most. */
#define ED_MOST_ROWS (1 << 27)

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

/* model.c: a model takes over what `ed_model_beside` says. */
int ed_model_share(EdModel *model, EdModel *first, const void *data, size_t data_size, char *error);

/* check.c: refuses a description that would make a kernel read outside of the data. */
int ed_check(const EdModel *model, char *error);
int ed_check_linear(const EdModel *over, const EdLinearSpec *spec, char *error);

/* result.c: of lines of `count` numbers, `stride` from one to the next. */
typedef struct {
    const EdKernels *kernels;
    EdTeam *team;
    const float *numbers;
    int lines, count, stride;
} EdLines;

void ed_lines_topk(const EdLines *lines, int k, int32_t *ids, float *values);

/* buffers.c */
EdWidths ed_widths(const EdModel *model);
int ed_buffers_reserve(EdSession *session, const EdStep *step, char *error);
void ed_buffers_free(EdBuffers *buffers);

/* store.c: those of self-attention or, if `cross`, of cross-attention. Bytes are numbers by layer,
 * key and value, head, row and dim, then scales. */
int ed_stores_open(EdStores *stores, const EdModel *model, int kv_type, int rows, int cross,
                   char *error);
void ed_stores_close(EdStores *stores);
void ed_store_row(const EdKernels *kernels, const EdStore *store, int head, int index,
                  const float *key, const float *value);
size_t ed_row_bytes(const EdModel *model, int kv_type, int cross);
void ed_stores_get(const EdStores *stores, int rows, void *bytes);
void ed_stores_set(const EdStores *stores, int rows, const void *bytes);
void ed_stores_move(const EdStores *stores, const int32_t *from, const int32_t *to, int count);

/* source.c: gives up the session's share. */
void ed_source_drop(EdSession *session);

/* What is still to be done to the stream x before the next part of a layer reads it. */
typedef enum { ED_NOTHING, ED_ADD_Y, ED_NORM_AND_ADD, ED_NORM_IN_PLACE } EdPending;

/* Which rows of the stream go into which matrix: `which` [rows], NULL: all; norm NULL: as they are;
 * `like`: a matrix, others with the same inputs and blocks will do. */
typedef struct {
    int rows;
    const int32_t *which;
    const EdNorm *norm;
    const EdMatrix *like;
} EdEntry;

/* A step on its way; every thread has its own, and all are alike. */
typedef struct {
    EdRun run;
    EdPending pending;
    const EdNorm *pending_norm;
    EdEntry entry; /* the latest */
} EdProgram;

/* embed.c: rows enter and, if they are `turned`, get the angles of their positions. */
void ed_embed(EdRun *run, EdWorker *me, int turned);

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
    const EdEntry *entry; /* what each thread packs for itself, if `from` is NULL */
    const EdMatrix *next;
    EdRows *to;
    float scale, softcap;
} EdProducts;

/* enter.c: rows enter in a phase of their own or, if they are few, with each thread for itself once
 * it has a piece of the products, which then read what it has packed (`ed_entered`). */
void ed_settle(EdProgram *program, EdWorker *me);
void ed_enter(EdProgram *program, EdWorker *me, const EdEntry *entry);
int ed_are_few(const EdRun *run, int rows);
void ed_entered(const EdRun *run, const EdWorker *me, EdProducts *products);

/* Around the columns of a thread's pieces: what its products set up and put away again. */
void ed_begin(const EdRun *run, const EdProducts *products);
void ed_end(const EdRun *run, const EdProducts *products);
void ed_products(EdRun *run, EdWorker *me, const EdProducts *products);
/* `count` outputs of one target from `column` on, for the rows of a group; lines begin with the
 * first output of the tile that `column` is in. */
void ed_columns(const EdRun *run, const EdProducts *products, int target, int column, int count,
                int group, float *to, size_t stride);
/* Row `row` of `rows` as the matrix `like` reads it; one block of it, x being the block's numbers;
 * the same block of all rows of a group, lines of x being `stride` numbers long. */
void ed_pack_row(const EdRun *run, EdRows *to, const EdMatrix *like, const float *x, int row,
                 int rows);
void ed_pack_block(const EdRun *run, EdRows *to, const EdMatrix *like, const float *x, int block,
                   int row, int rows);
void ed_pack_group(const EdRun *run, EdRows *to, const EdMatrix *like, const float *x,
                   size_t stride, int block, int group, int rows);

/* Products of the rows that were packed first, as the stream was entered, or later; then their
 * matrices, one after the other. */
static inline EdProducts ed_product_of(const EdRun *run, int later, EdFinish finish)
{
    return (EdProducts){
        .finish = finish, .rows = run->rows, .from = run->buffers->packed[later], .scale = 1.0f};
}

static inline void ed_into(EdProducts *p, const EdModel *model, const EdMatrix *matrix,
                           uint64_t bias, float *out, int stride)
{
    p->targets[p->count++] = (EdTarget){matrix, ed_floats(model, bias), out, stride};
}

/* heads.c: products with q, k and v, with q alone, or with k and v; from k and v to the store, row
 * i at the trunk + its handle, from q to queries. */
typedef enum { ED_ALL_HEADS, ED_QUERIES_ONLY, ED_KEYS } EdHeads;

void ed_heads(EdRun *run, EdWorker *me, const EdView *view, const EdProducts *products,
              EdHeads what);

/* attend.c: from queries and the stores to rows packed for the matrix o. */
void ed_attend(EdRun *run, EdWorker *me, const EdView *view);

/* piece.c: some queries of one kv head over some chunks of their paths. */
typedef struct {
    const EdRun *run;
    const EdView *view;
    int head, first, count, dim; /* kv head; queries; the store's width */
    float *scores, *live;
    EdParts chunk, span, total; /* the latest chunk; a span, and all spans, so far */
    float *factors;
    int32_t *integers;
    int8_t *bytes, *spread; /* weights in the order of the path, and of a chunk of the store */
} EdPiece;

/* Chunks in which not every row sees every key. */
static inline int ed_live_chunks(int common, int living)
{
    return (common + living - 1) / ED_CHUNK - common / ED_CHUNK + 1;
}

/* Bytes that the buffers of a piece take, and where they lie. */
size_t ed_piece_size(const EdSession *session, int live_chunks);
void ed_piece_place(EdPiece *piece, unsigned char *scratch);
/* The scores of the keys at the end of the common ones and of the living ones. */
void ed_piece_live(EdPiece *piece);
/* One chunk joins the span, for all queries. */
void ed_piece_chunk(EdPiece *piece, int chunk);

#endif
