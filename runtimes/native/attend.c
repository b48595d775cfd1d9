/* Attention of a layer, shared out among the threads by head, queries and spans of 4 chunks.
 *
 * However it is shared out, each chunk is reduced by itself, the chunks of a span are joined in
 * order, and the spans are.
 */
#include <math.h>
#include <string.h>

#include "model.h"

/* From so many spans on they are shared out too, if there are few heads. */
#define MANY_SPANS 2
/* Queries whose spans are joined together, a multiple of 16. */
#define JOINED 16

typedef struct {
    int queries, blocks, per_block; /* of one kv head */
    int chunk, first, end;          /* the first chunk that is seen; spans */
    int shared;                     /* whether spans are pieces of their own */
} Plan;

/* The first chunk in which a row within the window may lie. */
static int first_chunk(const EdRun *run, const EdView *view)
{
    const int32_t *positions = view->positions;
    int earliest = INT32_MAX, chunk = 0, last = view->common / ED_CHUNK;
    if (!view->spec->window)
        return 0;
    for (int row = 0; row < run->rows; row++)
        earliest = ed_least(earliest, run->input->positions[row]);
    for (; chunk < last; chunk++) {
        int latest = 0;
        for (int i = 0; i < ED_CHUNK; i++)
            latest =
                positions[chunk * ED_CHUNK + i] > latest ? positions[chunk * ED_CHUNK + i] : latest;
        if (earliest - latest < view->spec->window)
            break;
    }
    return chunk;
}

/* What one span gives the queries of one head. */
static size_t part_floats(int queries, int dim)
{
    return 2 * (size_t)ed_padded(queries, 16) + (size_t)queries * (size_t)dim;
}

static size_t partial_floats(const EdAttention *la, const Plan *plan)
{
    return (size_t)la->kv_heads * (size_t)(plan->end - plan->first) *
           part_floats(plan->queries, ed_padded(la->head_dim, 16));
}

/* What a piece takes beyond its queries, in queries: keys and values become floats for the first. */
#define PIECE_COST 2

/* So many pieces of one kv head, as equal as can be. */
static void share_queries(Plan *plan, int blocks)
{
    plan->per_block = (plan->queries + blocks - 1) / blocks;
    plan->blocks = (plan->queries + plan->per_block - 1) / plan->per_block;
}

/* How long the busiest thread takes, in queries. */
static int cost_of(const Plan *plan, int kv_heads, int threads)
{
    int pieces = (kv_heads * plan->blocks + threads - 1) / threads;
    return pieces * (plan->per_block + PIECE_COST);
}

/* Few large pieces leave threads idle, many small ones read keys and values again. */
static void share_evenly(Plan *plan, int kv_heads, int threads)
{
    Plan other = *plan;
    for (int blocks = plan->blocks + 1; kv_heads * blocks <= 8 * threads; blocks++) {
        share_queries(&other, blocks);
        if (cost_of(&other, kv_heads, threads) < cost_of(plan, kv_heads, threads))
            *plan = other;
    }
}

static Plan plan_of(const EdRun *run, const EdView *view, int threads)
{
    const EdAttention *la = view->spec;
    Plan plan = {.queries = run->rows * (la->heads / la->kv_heads)};
    plan.chunk = first_chunk(run, view);
    plan.first = plan.chunk / ED_SPAN;
    plan.end = (view->reach + ED_SPAN * ED_CHUNK - 1) / (ED_SPAN * ED_CHUNK);
    share_queries(&plan, (plan.queries + ED_QUERIES - 1) / ED_QUERIES);
    plan.shared = threads > 1 && la->kv_heads * plan.blocks < 4 * threads &&
                  plan.end - plan.first >= MANY_SPANS &&
                  partial_floats(la, &plan) <= run->buffers->partial_floats;
    if (threads > 1 && !plan.shared)
        share_evenly(&plan, la->kv_heads, threads);
    return plan;
}

static EdPiece piece_at(EdRun *run, EdWorker *me, const EdView *view, int head, int first)
{
    EdPiece piece = {
        .run = run,
        .view = view,
        .head = head,
        .first = first,
        .dim = view->store->dim,
    };
    ed_piece_place(&piece, run->buffers->scratch + (size_t)me->index * run->buffers->scratch_size);
    return piece;
}

static EdPiece piece_of(EdRun *run, EdWorker *me, const EdView *view, const Plan *plan, int number)
{
    EdPiece piece = piece_at(run, me, view, number / plan->blocks,
                             number % plan->blocks * plan->per_block);
    piece.count = ed_least(plan->per_block, plan->queries - piece.first);
    return piece;
}

/* The end of the longest path among the queries, in chunks. */
static int end_of(const EdPiece *piece)
{
    int rows = 0;
    for (int q = 0; q < ed_least(piece->count, piece->run->rows); q++) {
        const EdSight *sight = ed_sight(piece->view, (piece->first + q) % piece->run->rows);
        int length = sight->prefix + sight->extra_count;
        rows = length > rows ? length : rows;
    }
    return (rows + ED_CHUNK - 1) / ED_CHUNK;
}

/* Whether a head makes whole blocks of the matrix that comes next. */
static int packs_itself(const EdAttention *la)
{
    return la->head_dim % la->o.block == 0;
}

static void put_out(const EdRun *run, const EdAttention *la, int head, int query,
                    const float *total, float sum)
{
    int group = la->heads / la->kv_heads;
    int row = query % run->rows, column = head * group + query / run->rows;
    int blocks = la->head_dim / la->o.block;
    float scaled[ED_MOST_HEAD_DIM];
    run->kernels->scale(total, 1.0f / sum, ed_padded(la->head_dim, 16), scaled);
    if (!packs_itself(la)) {
        memcpy(run->buffers->mixed + (size_t)row * (size_t)run->session->widths.queries +
                   (size_t)column * (size_t)la->head_dim,
               scaled, (size_t)la->head_dim * sizeof *scaled);
        return;
    }
    for (int i = 0; i < blocks; i++)
        ed_pack_block(run, run->buffers->packed[1], &la->o, scaled + i * la->o.block,
                      column * blocks + i, row, run->rows);
}

static void begin(const EdParts *parts, int lines, int dim)
{
    memset(parts->mixed, 0, (size_t)(lines * dim) * sizeof *parts->mixed);
    for (int q = 0; q < ed_padded(lines, 16); q++) {
        parts->sums[q] = 0.0f;
        parts->largest[q] = -INFINITY;
    }
}

/* The chunks of one span, from `first` and to `end` of all. */
static void run_span(EdPiece *piece, int span, int first, int end)
{
    int chunk = span * ED_SPAN > first ? span * ED_SPAN : first;
    end = ed_least(end, span * ED_SPAN + ED_SPAN);
    begin(&piece->chunk, piece->count, 0);
    begin(&piece->span, piece->count, piece->dim);
    for (; chunk < end; chunk++)
        ed_piece_chunk(piece, chunk);
}

static void put_piece(EdRun *run, const EdPiece *piece)
{
    for (int q = 0; q < piece->count; q++)
        put_out(run, piece->view->spec, piece->head, piece->first + q,
                piece->total.mixed + q * piece->dim, piece->total.sums[q]);
}

static void whole_piece(EdRun *run, EdPiece *piece, const Plan *plan)
{
    int end = end_of(piece);
    begin(&piece->total, piece->count, piece->dim);
    for (int span = plan->first; span * ED_SPAN < end; span++) {
        run_span(piece, span, plan->chunk, end);
        run->kernels->join(&piece->total, &piece->span, piece->count, piece->dim);
    }
    put_piece(run, piece);
}

/* What one span gave the queries of a head, from the piece's first on. */
static EdParts partial(const EdRun *run, const EdPiece *piece, const Plan *plan, int span)
{
    size_t lines = (size_t)ed_padded(plan->queries, 16), first = (size_t)piece->first;
    size_t at = (size_t)(piece->head * (plan->end - plan->first) + span - plan->first);
    float *sums = run->buffers->partials + at * part_floats(plan->queries, piece->dim);
    return (EdParts){sums + first, sums + lines + first,
                     sums + 2 * lines + first * (size_t)piece->dim};
}

static void one_span(EdRun *run, EdPiece *piece, const Plan *plan, int span)
{
    EdParts to = partial(run, piece, plan, span);
    piece->span.mixed = to.mixed;
    run_span(piece, span, plan->chunk, end_of(piece));
    memcpy(to.sums, piece->span.sums, (size_t)piece->count * sizeof *to.sums);
    memcpy(to.largest, piece->span.largest, (size_t)piece->count * sizeof *to.largest);
}

static void join_spans(EdRun *run, EdWorker *me, const EdView *view, const Plan *plan, int number)
{
    int parts = (plan->queries + JOINED - 1) / JOINED;
    EdPiece piece = piece_at(run, me, view, number / parts, number % parts * JOINED);
    piece.count = ed_least(JOINED, plan->queries - piece.first);
    begin(&piece.total, piece.count, piece.dim);
    for (int span = plan->first; span < plan->end; span++) {
        EdParts part = partial(run, &piece, plan, span);
        run->kernels->join(&piece.total, &part, piece.count, piece.dim);
    }
    put_piece(run, &piece);
}

static void attend_piece(EdRun *run, EdWorker *me, const EdView *view, const Plan *plan, int number)
{
    int spans = plan->shared ? plan->end - plan->first : 1, span = plan->first + number % spans;
    EdPiece piece = piece_of(run, me, view, plan, number / spans);
    if (!plan->shared || (span + 1) * ED_SPAN * ED_CHUNK > view->common)
        ed_piece_live(&piece);
    if (plan->shared)
        one_span(run, &piece, plan, span);
    else
        whole_piece(run, &piece, plan);
}

static void pack_mixed(EdRun *run, EdWorker *me, const EdAttention *la)
{
    int used = la->o.inputs, padding = ed_padded(used, 16) - used;
    while (ed_team_take(me, 1, run->rows)) {
        for (int row = me->next; row < me->end; row++) {
            float *mixed = run->buffers->mixed + (size_t)row * (size_t)run->session->widths.queries;
            memset(mixed + used, 0, (size_t)padding * sizeof *mixed);
            ed_pack_row(run, run->buffers->packed[1], &la->o, mixed, row, run->rows);
        }
    }
}

void ed_attend(EdRun *run, EdWorker *me, const EdView *view)
{
    const EdAttention *la = view->spec;
    Plan plan = plan_of(run, view, ed_team_size(me->team));
    int spans = plan.shared ? plan.end - plan.first : 1;
    while (ed_team_take(me, 1, la->kv_heads * plan.blocks * spans))
        for (int i = me->next; i < me->end; i++)
            attend_piece(run, me, view, &plan, i);
    if (plan.shared)
        while (ed_team_take(me, 1, la->kv_heads * ((plan.queries + JOINED - 1) / JOINED)))
            for (int i = me->next; i < me->end; i++)
                join_spans(run, me, view, &plan, i);
    if (!packs_itself(la))
        pack_mixed(run, me, la);
}
