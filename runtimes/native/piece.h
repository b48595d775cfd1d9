/* Where the rows are that the queries of a piece of attention see; see piece.c. */
#ifndef ED_PIECE_H
#define ED_PIECE_H

#include "model.h"

static inline int first_live(const EdPiece *piece)
{
    return piece->view->common / ED_CHUNK;
}

static inline int group_of(const EdPiece *piece)
{
    return piece->view->spec->heads / piece->view->spec->kv_heads;
}

/* Queries go by head, then by row. */
static inline int row_of(const EdPiece *piece, int query)
{
    return (piece->first + query) % piece->run->rows;
}

static inline int head_of(const EdPiece *piece, int query)
{
    return piece->head * group_of(piece) + (piece->first + query) / piece->run->rows;
}

static inline const EdSight *sight_of(const EdPiece *piece, int query)
{
    return ed_sight(piece->view, row_of(piece, query));
}

/* How many of a chunk's rows belong to the prefix of a path. */
static inline int straight(const EdSight *sight, int chunk)
{
    int count = sight->prefix - chunk * ED_CHUNK;
    return count < 0 ? 0 : ed_least(count, ED_CHUNK);
}

/* The index of place i of a chunk of a path; -1 behind its end. */
static inline int index_at(const EdSight *sight, int chunk, int i)
{
    int place = chunk * ED_CHUNK + i;
    if (place < sight->prefix)
        return place;
    place -= sight->prefix;
    return place < sight->extra_count ? sight->extras[place] : -1;
}

static inline int is_tail(const EdPiece *piece, int chunk)
{
    return chunk >= first_live(piece);
}

/* shaping.c: cap, distance bias and window of a query's scores, in the order of its path. */
void ed_piece_shape(const EdPiece *piece, int query, int chunk);

#endif
