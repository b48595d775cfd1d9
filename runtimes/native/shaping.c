/* What is done to the scores of attention before the softmax: cap, distance bias and window. */
#include <math.h>

#include "piece.h"

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
void ed_piece_shape(const EdPiece *piece, int query, int chunk)
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
