/* Attention of a few queries over one chunk: 64 keys that follow each other in a row's path.
 *
 * A path is the rows [0, prefix), which lie where they stand, then the row's extras, wherever they
 * lie. Whole chunks of the trunk are the same for all rows. Of the chunks behind, scores are made
 * for all rows that lie there and picked in the order of each path; then the prefix is mixed as a
 * block and the extras one by one, in that order. So a path gives the same bits however it lies.
 */
#include <math.h>
#include <string.h>

#include "model.h"

static int first_live(const EdPiece *piece)
{
    return piece->view->common / ED_CHUNK;
}

static int live_chunks(const EdPiece *piece)
{
    return ed_live_chunks(piece->view->common, piece->view->living);
}

static int group_of(const EdPiece *piece)
{
    return piece->view->spec->heads / piece->view->spec->kv_heads;
}

/* Queries go by head, then by row. */
static int row_of(const EdPiece *piece, int query)
{
    return (piece->first + query) % piece->run->rows;
}

static int head_of(const EdPiece *piece, int query)
{
    return piece->head * group_of(piece) + (piece->first + query) / piece->run->rows;
}

static const EdSight *sight_of(const EdPiece *piece, int query)
{
    return ed_sight(piece->view, row_of(piece, query));
}

static size_t place_of(const EdPiece *piece, int chunk)
{
    return (size_t)piece->head * (size_t)piece->view->store->chunks + (size_t)chunk;
}

static int is_bytes(const EdPiece *piece)
{
    return piece->view->store->kv_type == ED_KV_INT8;
}

/* The first of the queries among those of all heads. */
static size_t line_of(const EdPiece *piece)
{
    return (size_t)(piece->head * group_of(piece) * piece->run->rows + piece->first);
}

size_t ed_piece_size(const EdSession *session, int live_chunks)
{
    size_t dim = (size_t)session->widths.head_dim, wide = dim > ED_CHUNK ? dim : ED_CHUNK;
    size_t floats = ED_CHUNK * (size_t)(1 + live_chunks) + 3 * dim + 6 + 2 * wide;
    return ED_QUERIES * (floats * sizeof(float) + ED_CHUNK);
}

static float *place(float **free, size_t floats)
{
    float *here = *free;
    *free += floats;
    return here;
}

static EdParts place_parts(float **free, size_t dim)
{
    float *mixed = place(free, ED_QUERIES * dim), *sums = place(free, ED_QUERIES);
    return (EdParts){sums, place(free, ED_QUERIES), mixed};
}

void ed_piece_place(EdPiece *piece, unsigned char *scratch)
{
    size_t dim = (size_t)piece->run->session->widths.head_dim;
    size_t wide = dim > ED_CHUNK ? dim : ED_CHUNK;
    float *free = (float *)scratch;
    piece->scores = place(&free, ED_QUERIES * ED_CHUNK);
    piece->live = place(&free, ED_QUERIES * ED_CHUNK * (size_t)live_chunks(piece));
    piece->chunk = place_parts(&free, dim);
    piece->span = place_parts(&free, dim);
    piece->total = place_parts(&free, dim);
    piece->integers = (int32_t *)place(&free, 2 * ED_QUERIES * wide);
    piece->weights = (int8_t *)free;
}

/* Scores of all queries with the first `columns` of the 64 rows in one chunk of the store. */
static void score(const EdPiece *piece, int chunk, int columns, float *out)
{
    const EdMixShape shape = {piece->dim, piece->count,           piece->dim,
                              ED_CHUNK,   ed_padded(columns, 16), piece->dim};
    const EdKernels *k = piece->run->kernels;
    const EdBuffers *b = piece->run->buffers;
    size_t dim = (size_t)piece->dim, line = line_of(piece);
    size_t at = place_of(piece, chunk) * ED_CHUNK;
    if (!is_bytes(piece)) {
        k->mix(&shape, b->queries + line * dim,
               (const uint16_t *)piece->view->store->keys + at * dim, out);
        return;
    }
    k->mix_bytes(&shape, b->query_bytes + line * dim, b->query_sums + line,
                 (const int8_t *)piece->view->store->keys + at * dim, piece->integers);
    for (int q = 0; q < piece->count; q++)
        k->from_sums(piece->integers + q * ED_CHUNK, b->query_scales[line + (size_t)q],
                     piece->view->store->key_scales + at, shape.columns, out + q * ED_CHUNK);
}

/* The last row that any of the queries sees. */
static int last_seen(const EdPiece *piece)
{
    int last = 0;
    for (int q = 0; q < piece->count; q++) {
        const EdSight *sight = sight_of(piece, q);
        int own = sight->extra_count ? sight->extras[sight->extra_count - 1] : sight->prefix - 1;
        last = own > last ? own : last;
    }
    return last;
}

void ed_piece_live(EdPiece *piece)
{
    int base = first_live(piece), last = last_seen(piece);
    for (int chunk = base; chunk <= last / ED_CHUNK; chunk++)
        score(piece, chunk, ed_least(ED_CHUNK, last + 1 - chunk * ED_CHUNK),
              piece->live + (chunk - base) * piece->count * ED_CHUNK);
}

/* How many of a chunk's rows belong to the prefix of a path. */
static int straight(const EdSight *sight, int chunk)
{
    int count = sight->prefix - chunk * ED_CHUNK;
    return count < 0 ? 0 : ed_least(count, ED_CHUNK);
}

/* The index of place i of a chunk of a path; -1 behind its end. */
static int index_at(const EdSight *sight, int chunk, int i)
{
    int place = chunk * ED_CHUNK + i;
    if (place < sight->prefix)
        return place;
    place -= sight->prefix;
    return place < sight->extra_count ? sight->extras[place] : -1;
}

/* The scores of one query in the order of its path. */
static void pick(const EdPiece *piece, int query, int chunk)
{
    const EdSight *sight = sight_of(piece, query);
    int base = first_live(piece), here = straight(sight, chunk);
    float *scores = piece->scores + query * ED_CHUNK;
    const float *live = piece->live + query * ED_CHUNK;
    int step = piece->count * ED_CHUNK;
    memcpy(scores, live + (chunk - base) * step * (here > 0), (size_t)here * sizeof *scores);
    for (int i = here; i < ED_CHUNK; i++)
        scores[i] = -INFINITY;
    for (int i = here, index; i < ED_CHUNK && (index = index_at(sight, chunk, i)) >= 0; i++)
        scores[i] = live[(index / ED_CHUNK - base) * step + index % ED_CHUNK];
}

static int is_shaped(const EdAttention *la)
{
    return la->softcap != 0.0f || la->window || la->distance_bias;
}

/* The bias of keys at consecutive positions, the first of them `ahead` of the query. */
static void add_biases(const EdPiece *piece, int head, int ahead, int count, float *scores)
{
    const EdAttention *la = piece->view->spec;
    const float *biases =
        ed_floats(piece->run->model, la->distance_bias) + (size_t)head * (size_t)la->distances;
    int64_t first = (int64_t)ahead + la->origin, last = la->distances - 1;
    if (count == ED_CHUNK && first >= 0 && first + ED_CHUNK <= la->distances) {
        piece->run->kernels->add(scores, biases + first, ED_CHUNK, scores);
        return;
    }
    for (int i = 0; i < count; i++)
        scores[i] += biases[first + i < 0 ? 0 : first + i > last ? last : first + i];
}

static int is_beyond(const EdPiece *piece, int ahead)
{
    int window = piece->view->spec->window;
    return window && (-ahead >= window || (piece->run->model->spec.encoder && ahead >= window));
}

/* Whether the first rows of a chunk of the store stand at consecutive positions. */
static int is_even(const int32_t *positions, int count)
{
    int odd = 0;
    for (int i = 1; i < count; i++)
        odd |= positions[i] - positions[0] - i;
    return !odd;
}

/* What the rows of the prefix need, if it can be said of all of them at once: they stand one after
 * the other and none is beyond the window. */
static int shape_at_once(const EdPiece *piece, int query, int chunk, int count)
{
    const EdAttention *la = piece->view->spec;
    const int32_t *positions = piece->view->positions + chunk * ED_CHUNK;
    int ahead = positions[0] - piece->run->input->positions[row_of(piece, query)];
    if (!is_even(positions, count) || is_beyond(piece, ahead) ||
        is_beyond(piece, ahead + count - 1))
        return 0;
    if (la->distance_bias)
        add_biases(piece, head_of(piece, query), ahead, count, piece->scores + query * ED_CHUNK);
    return 1;
}

/* Cap, distance bias and window; what a cap makes of places that nobody sees is undone. */
static void shape_scores(const EdPiece *piece, int query, int chunk)
{
    const EdAttention *la = piece->view->spec;
    const EdSight *sight = sight_of(piece, query);
    int end = straight(sight, chunk), from = 0, placed = la->window || la->distance_bias;
    int position = piece->run->input->positions[row_of(piece, query)];
    float *scores = piece->scores + query * ED_CHUNK;
    if (la->softcap != 0.0f)
        piece->run->kernels->soften(scores, la->softcap, ED_CHUNK);
    if (end && (!placed || shape_at_once(piece, query, chunk, end)))
        from = end;
    for (int i = from; i < ED_CHUNK; i++) {
        int index = index_at(sight, chunk, i), ahead;
        ahead = index < 0 || !placed ? 0 : piece->view->positions[index] - position;
        if (index < 0 || is_beyond(piece, ahead))
            scores[i] = -INFINITY;
        else if (la->distance_bias)
            add_biases(piece, head_of(piece, query), ahead, 1, scores + i);
    }
}

static int is_tail(const EdPiece *piece, int chunk)
{
    return chunk >= first_live(piece);
}

static void mix_halves(EdPiece *piece, int chunk)
{
    const EdKernels *k = piece->run->kernels;
    const uint16_t *values = (const uint16_t *)piece->view->store->values;
    size_t dim = (size_t)piece->dim, at = place_of(piece, chunk) * ED_CHUNK * dim;
    float kept[ED_QUERIES][ED_CHUNK];
    int inner = 0;
    for (int q = 0; q < piece->count; q++) {
        int here = straight(sight_of(piece, q), chunk);
        float *scores = piece->scores + q * ED_CHUNK;
        inner = here > inner ? here : inner;
        if (here == ED_CHUNK)
            continue;
        memcpy(kept[q] + here, scores + here, (size_t)(ED_CHUNK - here) * sizeof *scores);
        memset(scores + here, 0, (size_t)(ED_CHUNK - here) * sizeof *scores);
    }
    k->mix(&(EdMixShape){ED_CHUNK, piece->count, inner, piece->dim, piece->dim, piece->dim},
           piece->scores, values + at, piece->chunk.mixed);
    for (int q = 0; q < piece->count; q++) {
        const EdSight *sight = sight_of(piece, q);
        for (int i = straight(sight, chunk); i < ED_CHUNK; i++) {
            int index = index_at(sight, chunk, i);
            if (index < 0)
                break;
            at = (place_of(piece, index / ED_CHUNK) * ED_CHUNK + (size_t)(index % ED_CHUNK)) * dim;
            k->add_value(piece->chunk.mixed + (size_t)q * dim, kept[q][i], values + at, piece->dim);
        }
    }
}

/* Weight times the scale of its value, as bytes in the order of the path; returns their scale. */
static float weigh(const EdPiece *piece, int query, int chunk, int8_t *bytes)
{
    const EdSight *sight = sight_of(piece, query);
    const EdKernels *k = piece->run->kernels;
    const float *all = piece->view->store->value_scales;
    float scales[ED_CHUNK];
    int here = straight(sight, chunk);
    if (here == ED_CHUNK)
        return k->weigh(piece->scores + query * ED_CHUNK, all + place_of(piece, chunk) * ED_CHUNK,
                        bytes);
    memcpy(scales, all + place_of(piece, chunk) * ED_CHUNK, (size_t)here * sizeof *scales);
    for (int i = here; i < ED_CHUNK; i++) {
        int index = index_at(sight, chunk, i);
        scales[i] =
            index < 0
                ? 0.0f
                : all[place_of(piece, index / ED_CHUNK) * ED_CHUNK + (size_t)(index % ED_CHUNK)];
    }
    return k->weigh(piece->scores + query * ED_CHUNK, scales, bytes);
}

/* Put the weights of one chunk of the paths where their rows lie in one chunk of the store. */
static int spread(const EdPiece *piece, int chunk, int stored, int8_t (*bytes)[ED_CHUNK])
{
    int any = 0;
    memset(piece->weights, 0, (size_t)(piece->count * ED_CHUNK));
    for (int q = 0; q < piece->count; q++) {
        const EdSight *sight = sight_of(piece, q);
        for (int i = 0; i < ED_CHUNK; i++) {
            int index = index_at(sight, chunk, i);
            if (index >= 0 && index / ED_CHUNK == stored) {
                piece->weights[q * ED_CHUNK + index % ED_CHUNK] = bytes[q][i];
                any = 1;
            }
        }
    }
    return any;
}

static void mix_stored(EdPiece *piece, int stored, const int8_t *weights, int32_t *out)
{
    size_t at = place_of(piece, stored) * ED_CHUNK * (size_t)piece->dim;
    piece->run->kernels->mix_bytes(
        &(EdMixShape){ED_CHUNK, piece->count, ED_CHUNK, piece->dim, piece->dim, piece->dim},
        weights, NULL, (const int8_t *)piece->view->store->values + at, out);
}

static void mix_integers(EdPiece *piece, int chunk)
{
    int8_t bytes[ED_QUERIES][ED_CHUNK];
    float scales[ED_QUERIES];
    int numbers = piece->count * piece->dim;
    int32_t *sums = piece->integers, *more = sums + ED_QUERIES * piece->dim;
    for (int q = 0; q < piece->count; q++)
        scales[q] = weigh(piece, q, chunk, bytes[q]);
    if (!is_tail(piece, chunk)) {
        mix_stored(piece, chunk, bytes[0], sums);
    } else {
        memset(sums, 0, (size_t)numbers * sizeof *sums);
        for (int i = 0; i < live_chunks(piece); i++) {
            if (!spread(piece, chunk, first_live(piece) + i, bytes))
                continue;
            mix_stored(piece, first_live(piece) + i, piece->weights, more);
            for (int j = 0; j < numbers; j++)
                sums[j] += more[j];
        }
    }
    for (int q = 0; q < piece->count; q++)
        piece->run->kernels->from_sums(sums + q * piece->dim, scales[q], NULL, piece->dim,
                                       piece->chunk.mixed + q * piece->dim);
}

void ed_piece_chunk(EdPiece *piece, int chunk)
{
    if (!is_tail(piece, chunk))
        score(piece, chunk, ED_CHUNK, piece->scores);
    for (int q = 0; is_tail(piece, chunk) && q < piece->count; q++)
        pick(piece, q, chunk);
    for (int q = 0; is_shaped(piece->view->spec) && q < piece->count; q++)
        shape_scores(piece, q, chunk);
    piece->run->kernels->soft(piece->scores, piece->count, piece->chunk.sums, piece->chunk.largest);
    if (is_bytes(piece))
        mix_integers(piece, chunk);
    else
        mix_halves(piece, chunk);
}
