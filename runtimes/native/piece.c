/* Attention of a few queries over one chunk: 64 keys that follow each other in a row's path.
 *
 * A path is the rows [0, prefix), which lie where they stand, then the row's extras, wherever they
 * lie. Whole chunks of the trunk are the same for all rows. Of the chunks behind, scores are made
 * for all rows that lie there and picked in the order of each path; then the prefix is mixed as a
 * block and the extras one by one, in that order. So a path gives the same bits however it lies.
 */
#include <math.h>
#include <string.h>

#include "piece.h"

static int live_chunks(const EdPiece *piece)
{
    return ed_live_chunks(piece->view->common, piece->view->living);
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
    size_t floats = ED_CHUNK * (size_t)(1 + live_chunks) + 3 * dim + 6 + 2 * wide + 1;
    return ED_QUERIES * (floats * sizeof(float) + 2 * ED_CHUNK);
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
    piece->factors = place(&free, ED_QUERIES);
    piece->integers = (int32_t *)place(&free, 2 * ED_QUERIES * wide);
    piece->bytes = (int8_t *)free;
    piece->spread = piece->bytes + ED_QUERIES * ED_CHUNK;
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
               (const uint16_t *)piece->view->store->keys + at * dim, NULL, out);
        return;
    }
    k->mix_bytes(&shape, b->query_bytes + line * dim, b->query_sums + line,
                 (const int8_t *)piece->view->store->keys + at * dim,
                 &(EdScaling){b->query_scales + line, piece->view->store->key_scales + at, NULL},
                 out);
}

/* The last row that any of the queries sees. */
static int last_seen(const EdPiece *piece)
{
    int last = 0;
    for (int q = 0; q < ed_least(piece->count, piece->run->rows); q++) {
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

/* The first `inner` values of a chunk, weighed by the scores. */
static void mix_values(EdPiece *piece, int chunk, int inner, const EdShares *shares, float *out)
{
    size_t at = place_of(piece, chunk) * ED_CHUNK * (size_t)piece->dim;
    piece->run->kernels->mix(
        &(EdMixShape){ED_CHUNK, piece->count, inner, piece->dim, piece->dim, piece->dim},
        piece->scores, (const uint16_t *)piece->view->store->values + at, shares, out);
}

static void mix_halves(EdPiece *piece, int chunk)
{
    const EdKernels *k = piece->run->kernels;
    const uint16_t *values = (const uint16_t *)piece->view->store->values;
    size_t dim = (size_t)piece->dim, at;
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
    if (inner)
        mix_values(piece, chunk, inner, NULL, piece->chunk.mixed);
    else
        memset(piece->chunk.mixed, 0, (size_t)piece->count * dim * sizeof(float));
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
static int spread(const EdPiece *piece, int chunk, int stored)
{
    int any = 0;
    memset(piece->spread, 0, (size_t)(piece->count * ED_CHUNK));
    for (int q = 0; q < piece->count; q++) {
        const EdSight *sight = sight_of(piece, q);
        for (int i = 0; i < ED_CHUNK; i++) {
            int index = index_at(sight, chunk, i);
            if (index >= 0 && index / ED_CHUNK == stored) {
                piece->spread[q * ED_CHUNK + index % ED_CHUNK] = piece->bytes[q * ED_CHUNK + i];
                any = 1;
            }
        }
    }
    return any;
}

static void mix_stored(EdPiece *piece, int stored, const int8_t *weights, const EdScaling *scaling,
                       void *out)
{
    size_t at = place_of(piece, stored) * ED_CHUNK * (size_t)piece->dim;
    piece->run->kernels->mix_bytes(
        &(EdMixShape){ED_CHUNK, piece->count, ED_CHUNK, piece->dim, piece->dim, piece->dim},
        weights, NULL, (const int8_t *)piece->view->store->values + at, scaling, out);
}

static void mix_integers(EdPiece *piece, int chunk)
{
    int numbers = piece->count * piece->dim;
    int32_t *sums = piece->integers, *more = sums + ED_QUERIES * piece->dim;
    for (int q = 0; q < piece->count; q++)
        piece->factors[q] = weigh(piece, q, chunk, piece->bytes + q * ED_CHUNK);
    memset(sums, 0, (size_t)numbers * sizeof *sums);
    for (int i = 0; i < live_chunks(piece); i++) {
        if (!spread(piece, chunk, first_live(piece) + i))
            continue;
        mix_stored(piece, first_live(piece) + i, piece->spread, NULL, more);
        for (int j = 0; j < numbers; j++)
            sums[j] += more[j];
    }
    for (int q = 0; q < piece->count; q++)
        piece->run->kernels->from_sums(sums + q * piece->dim, piece->factors[q], NULL, piece->dim,
                                       piece->chunk.mixed + q * piece->dim);
}

/* A chunk of which some rows of a path lie elsewhere. */
static void gathered_chunk(EdPiece *piece, int chunk)
{
    const EdKernels *k = piece->run->kernels;
    k->soft(piece->scores, piece->count, &piece->chunk);
    if (is_bytes(piece))
        mix_integers(piece, chunk);
    else
        mix_halves(piece, chunk);
    k->join(&piece->span, &piece->chunk, piece->count, piece->dim);
}

/* How many rows of a chunk the queries see at most, if all see them where they lie; else 0. */
static int seen_in_place(const EdPiece *piece, int chunk)
{
    int rows = ed_least(piece->count, piece->run->rows), most = 0;
    if (!is_tail(piece, chunk))
        return ED_CHUNK;
    for (int q = 0; q < rows; q++) {
        const EdSight *sight = sight_of(piece, q);
        int here = straight(sight, chunk);
        if (here < ED_CHUNK && sight->extra_count)
            return 0;
        most = here > most ? here : most;
    }
    return most;
}

/* A chunk of which `rows` are seen where they lie joins as it is mixed. */
static void chunk_in_place(EdPiece *piece, int chunk, int rows)
{
    const EdKernels *k = piece->run->kernels;
    const EdParts *here = &piece->chunk;
    EdShares shares;
    if (is_bytes(piece)) {
        const float *scales = piece->view->store->value_scales + place_of(piece, chunk) * ED_CHUNK;
        float seen[ED_CHUNK] = {0.0f};
        if (rows < ED_CHUNK)
            scales = memcpy(seen, scales, (size_t)rows * sizeof *scales);
        k->soft_bytes(piece->scores, piece->count, scales, here, piece->bytes, piece->factors);
    } else {
        k->soft(piece->scores, piece->count, here);
    }
    k->meet(&piece->span, here, piece->count, &shares);
    if (is_bytes(piece))
        mix_stored(piece, chunk, piece->bytes, &(EdScaling){piece->factors, NULL, &shares},
                   piece->span.mixed);
    else
        mix_values(piece, chunk, rows, &shares, piece->span.mixed);
}

void ed_piece_chunk(EdPiece *piece, int chunk)
{
    int rows = seen_in_place(piece, chunk);
    if (!is_tail(piece, chunk))
        score(piece, chunk, ED_CHUNK, piece->scores);
    for (int q = 0; is_tail(piece, chunk) && q < piece->count; q++)
        pick(piece, q, chunk);
    for (int q = 0; is_shaped(piece->view->spec) && q < piece->count; q++)
        ed_piece_shape(piece, q, chunk);
    if (rows)
        chunk_in_place(piece, chunk, rows);
    else
        gathered_chunk(piece, chunk);
}
