/* What a text is made of: suffixes.c lets it grow, copies.c copies from it. */
#ifndef EDGEDEC_SUFFIXES_H
#define EDGEDEC_SUFFIXES_H

#include "tree.h"

typedef struct {
    int32_t length, link, first_end, last_end, edges;
} State;

typedef struct {
    int32_t from, token, to, next; /* next edge of the same state */
} Edge;

struct Suffixes {
    int limit;         /* tokens */
    int32_t *ends;     /* rising: tokens that no copy goes on to */
    int end_count;
    int count;         /* tokens held */
    int64_t dropped;   /* tokens that were forgotten before these */
    int states, edges; /* in use */
    int state_room, edge_room, table_size;
    int last;               /* the state of the whole text */
    int at, matched;        /* the match: a state, and how many tokens of it */
    int source, told, lost; /* the passage being copied: see suffixes_copy */
    int32_t *tokens;
    State *state;
    Edge *edge;
    int32_t *table; /* hash of (state, token): an edge + 1 */
};

/* As `suffixes_match`, but places in what is held of the text. */
int suffixes_places(const Suffixes *self, Match *found, int most);

static inline int smaller(int a, int b)
{
    return a < b ? a : b;
}

#endif
