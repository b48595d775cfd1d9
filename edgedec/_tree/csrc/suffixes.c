/* A suffix automaton (Blumer et al. 1985), grown token by token, that remembers for each state
 * where it ended last. Beside it runs the match: the longest end of the text that occurred before.
 */
#include "tree.h"

#include <stdlib.h>
#include <string.h>

/* How far up the suffix links the latest end is written: shorter matches are rarely wanted, and a
 * text of one repeated token would make this quadratic. */
enum { CLIMB = 32 };

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

static uint32_t place(const Suffixes *self, int32_t from, int32_t token)
{
    uint64_t key = ((uint64_t)(uint32_t)from << 32 | (uint32_t)token) * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(key >> 32) & (uint32_t)(self->table_size - 1);
}

static Edge *find(const Suffixes *self, int32_t from, int32_t token)
{
    uint32_t i = place(self, from, token);
    for (; self->table[i]; i = (i + 1) & (uint32_t)(self->table_size - 1)) {
        Edge *edge = &self->edge[self->table[i] - 1];
        if (edge->from == from && edge->token == token)
            return edge;
    }
    return NULL;
}

static void insert(Suffixes *self, int edge)
{
    uint32_t i = place(self, self->edge[edge].from, self->edge[edge].token);
    while (self->table[i])
        i = (i + 1) & (uint32_t)(self->table_size - 1);
    self->table[i] = edge + 1;
}

static int grow_table(Suffixes *self)
{
    int size = self->table_size ? 2 * self->table_size : 256;
    int32_t *table = calloc((size_t)size, sizeof *table);
    if (!table)
        return -1;
    free(self->table);
    self->table = table;
    self->table_size = size;
    for (int i = 0; i < self->edges; i++)
        insert(self, i);
    return 0;
}

static int grow(void **array, int *room, size_t size)
{
    int wanted = *room ? 2 * *room : 128;
    void *grown = realloc(*array, (size_t)wanted * size);
    if (!grown)
        return -1;
    *array = grown;
    *room = wanted;
    return 0;
}

/* Room for what one token can add: two states, and edges of a copied state. */
static int reserve(Suffixes *self, int edges)
{
    while (self->states + 2 > self->state_room)
        if (grow((void **)&self->state, &self->state_room, sizeof(State)))
            return -1;
    while (self->edges + edges > self->edge_room)
        if (grow((void **)&self->edge, &self->edge_room, sizeof(Edge)))
            return -1;
    while (2 * (self->edges + edges) > self->table_size)
        if (grow_table(self))
            return -1;
    return 0;
}

static int add_state(Suffixes *self, int length, int end)
{
    self->state[self->states] = (State){length, -1, end, end, -1};
    return self->states++;
}

static void add_edge(Suffixes *self, int from, int32_t token, int to)
{
    self->edge[self->edges] = (Edge){from, token, to, self->state[from].edges};
    self->state[from].edges = self->edges;
    insert(self, self->edges++);
}

void suffixes_reset(Suffixes *self)
{
    self->count = self->states = self->edges = self->last = self->at = self->matched = 0;
    self->dropped = self->lost = 0;
    self->source = self->told = -1;
    if (self->table)
        memset(self->table, 0, (size_t)self->table_size * sizeof *self->table);
}

Suffixes *suffixes_open(int limit, const int32_t *ends, int end_count)
{
    Suffixes *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->tokens = malloc((size_t)limit * sizeof *self->tokens);
    self->ends = malloc((size_t)(end_count + 1) * sizeof *self->ends);
    if (!self->tokens || !self->ends) {
        suffixes_close(self);
        return NULL;
    }
    for (int i = 0; i < end_count; i++)
        self->ends[i] = ends[i];
    self->end_count = end_count;
    self->limit = limit;
    self->source = self->told = -1;
    return self;
}

void suffixes_close(Suffixes *self)
{
    if (!self)
        return;
    free(self->tokens);
    free(self->ends);
    free(self->state);
    free(self->edge);
    free(self->table);
    free(self);
}

int64_t suffixes_length(const Suffixes *self)
{
    return self->dropped + self->count;
}

/* Lengthen the match by a token, or shorten it until that can be done. */
static void follow(Suffixes *self, int32_t token)
{
    Edge *edge;
    while (!(edge = find(self, self->at, token)) && self->at) {
        self->at = self->state[self->at].link;
        self->matched = self->state[self->at].length;
    }
    if (edge) {
        self->at = edge->to;
        self->matched++;
    }
}

/* The state that holds the match may have been split: climb to the one of its length. */
static void settle(Suffixes *self)
{
    while (self->at && self->state[self->state[self->at].link].length >= self->matched)
        self->at = self->state[self->at].link;
}

static int split(Suffixes *self, int from, int32_t token, int whole)
{
    int copy = add_state(self, self->state[from].length + 1, self->state[whole].first_end);
    self->state[copy].last_end = self->state[whole].last_end;
    self->state[copy].link = self->state[whole].link;
    for (int i = self->state[whole].edges; i >= 0; i = self->edge[i].next)
        add_edge(self, copy, self->edge[i].token, self->edge[i].to);
    for (Edge *edge; from >= 0 && (edge = find(self, from, token)) && edge->to == whole;
         from = self->state[from].link)
        edge->to = copy;
    return copy;
}

static int out_degree(const Suffixes *self, int state)
{
    int count = 0;
    for (int i = self->state[state].edges; i >= 0; i = self->edge[i].next)
        count++;
    return count;
}

static int extend(Suffixes *self, int32_t token, int end)
{
    int fresh = add_state(self, self->state[self->last].length + 1, end), from = self->last;
    Edge *edge = NULL;
    for (; from >= 0 && !(edge = find(self, from, token)); from = self->state[from].link) {
        if (reserve(self, 1))
            return -1;
        add_edge(self, from, token, fresh);
    }
    if (from < 0) {
        self->state[fresh].link = 0;
    } else if (self->state[edge->to].length == self->state[from].length + 1) {
        self->state[fresh].link = edge->to;
    } else {
        int whole = edge->to, copy;
        if (reserve(self, out_degree(self, whole)))
            return -1;
        copy = split(self, from, token, whole);
        self->state[whole].link = self->state[fresh].link = copy;
    }
    self->last = fresh;
    return 0;
}

/* The text so far ended here: what repeats it from now on finds this place. */
static void note_end(Suffixes *self)
{
    int at = self->last;
    for (int steps = 0; at > 0 && steps < CLIMB; steps++, at = self->state[at].link)
        self->state[at].last_end = self->count - 1;
}

/* Begin anew with the later half of a text that has become too long. */
static int forget_half(Suffixes *self)
{
    int half = self->limit / 2;
    int64_t dropped = self->dropped + self->count - half;
    int32_t *kept = malloc((size_t)half * sizeof *kept);
    if (!kept)
        return -1;
    memcpy(kept, self->tokens + self->count - half, (size_t)half * sizeof *kept);
    suffixes_reset(self);
    for (int i = 0; i < half; i++)
        if (suffixes_push(self, kept[i])) {
            free(kept);
            return -1;
        }
    free(kept);
    self->dropped = dropped;
    return 0;
}

int suffixes_push(Suffixes *self, int32_t token)
{
    int end;
    if ((self->count == self->limit && forget_half(self)) || reserve(self, 1)) {
        suffixes_reset(self);
        return -1;
    }
    if (!self->states)
        add_state(self, 0, -1);
    note_end(self);
    end = self->count++;
    self->tokens[end] = token;
    follow(self, token);
    if (extend(self, token, end)) {
        suffixes_reset(self);
        return -1;
    }
    settle(self);
    return 0;
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

static int seen(const Suffixes *self, const Match *found, int count, int end)
{
    for (int i = 0; i < count; i++)
        if (self->tokens[found[i].end + 1] == self->tokens[end + 1])
            return 1;
    return 0;
}

/* Places in what is held of the text. */
static int places_of(const Suffixes *self, Match *found, int most)
{
    int count = 0, at = self->at, length = self->matched;
    most = least(most, MAX_PLACES);
    for (int steps = 0; at > 0 && count < most && steps < CLIMB; steps++) {
        const State *state = &self->state[at];
        int ends[2] = {state->last_end, state->first_end};
        for (int i = 0; i < 2 && count < most; i++)
            if (ends[i] + 1 < self->count && !seen(self, found, count, ends[i]))
                found[count++] = (Match){length, ends[i]};
        at = state->link;
        length = self->state[at].length;
    }
    return count;
}

int suffixes_match(const Suffixes *self, Match *found, int most)
{
    int count = places_of(self, found, most);
    for (int i = 0; i < count; i++)
        found[i].end += self->dropped;
    return count;
}

/* --- copying ---------------------------------------------------------------------------------- */

/* After a change: how far behind the last copied token it may go on, and how likely that is; and
 * where the longest match says the same. */
static const struct {
    int step;
    float sure;
} GONE_ON[] = {{1, 0.5f}, {0, 0.25f}, {2, 0.12f}};
static const float CONFIRMED = 0.75f;

enum {
    PATIENCE = 4, /* tokens after which a lost place is given up */
    FIRM = 3,     /* a match of so many tokens is a passage being copied */
    WAYS_ON = 3,  /* of GONE_ON */
    BEHIND = 4    /* what a chain behind a change counts as a match of */
};

/* A chain that may be copied: where from, after how long a match, and how sure its first token is.
 */
typedef struct {
    int start, match;
    float first;
} Way;

/* How sure a copy is d tokens on after a match of n tokens: a start, calibrated by the planner. */
static float sure(int n, int d)
{
    float square = (float)(n + d) * (float)(n + d);
    return square / (square + 6);
}

static int is_end(const Suffixes *self, int32_t token)
{
    int low = 0, high = self->end_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (self->ends[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low < self->end_count && self->ends[low] == token;
}

static int chain(const Suffixes *self, const Way *way, int rank, int room, const Grown *out,
                 int count)
{
    int begin = count;
    for (int i = way->start; i >= 0 && i < self->count && count - begin < room; i++, count++) {
        if (is_end(self, self->tokens[i]))
            break;
        out->tokens[count] = self->tokens[i];
        out->parents[count] = count == begin ? -1 : count - 1;
        out->rank[count] = rank;
        out->score[count] = count == begin ? way->first : sure(way->match, count - begin);
    }
    return count;
}

/* How much of the passage that was proposed came true; the pointer stands behind it. */
static void advance(Suffixes *self)
{
    for (int i = self->told; i < self->count && self->source < self->told; i++) {
        if (self->tokens[i] != self->tokens[self->source])
            break;
        self->source++;
    }
}

/* Where the passage is that was copied, if it is still known. */
static void keep_place(Suffixes *self, const Match *longest)
{
    if (longest && longest->length >= FIRM) {
        self->source = (int)longest->end + 1;
        self->lost = 0;
        return;
    }
    if (self->source < 0)
        return;
    if (!self->lost)
        advance(self);
    if (++self->lost > PATIENCE)
        self->source = -1, self->lost = 0;
}

/* The surest first; of equals the one that was there before. */
static int put_way(Way *ways, int count, Way way)
{
    int at = count;
    for (; at && ways[at - 1].first < way.first; at--)
        ways[at] = ways[at - 1];
    ways[at] = way;
    return count + 1;
}

/* Behind a change, places where the passage may go on, and matches from elsewhere. */
static int ways_behind(const Suffixes *self, const Match *found, int places, Way *ways)
{
    int count = 0, known[WAYS_ON];
    for (int i = 0; i < WAYS_ON; i++) {
        int start = self->source + GONE_ON[i].step, confirmed = 0;
        known[i] = start;
        for (int k = 0; k < places; k++)
            confirmed |= found[k].end + 1 == start;
        count = put_way(ways, count,
                        (Way){start, BEHIND, confirmed ? CONFIRMED : GONE_ON[i].sure});
    }
    for (int k = 0; k < places; k++) {
        int start = (int)found[k].end + 1, again = 0;
        for (int i = 0; i < WAYS_ON; i++)
            again |= known[i] == start;
        if (!again)
            count = put_way(ways, count, (Way){start, found[k].length, sure(found[k].length, 0)});
    }
    return count;
}

int suffixes_copy(Suffixes *self, const Copying *how, const Grown *out)
{
    Match found[MAX_PLACES];
    Way ways[MAX_PLACES + WAYS_ON];
    int places = places_of(self, found, how->branches), most = how->most > 0 ? how->most : 0;
    int count = 0, all = 0, side, room;
    keep_place(self, places ? found : NULL);
    while (places && found[places - 1].length < how->shortest)
        places--;
    if (self->lost)
        all = ways_behind(self, found, places, ways);
    else
        for (; all < places; all++)
            ways[all] = (Way){(int)found[all].end + 1, found[all].length,
                              sure(found[all].length, 0)};
    /* The first chain is the long one; each of the others gets a sixth. Where there are more chains
     * than nodes the last ones get nothing, never the first. */
    side = most / 6 > 1 ? most / 6 : 1;
    room = most - side * (all - 1);
    room = room > side ? room : side;
    for (int i = 0, rank = 0; i < all; i++) {
        int before = count;
        count = chain(self, &ways[i], rank, least(room, most - count), out, count);
        if (count > before)
            room = side, rank++;
    }
    self->told = self->count;
    return count;
}
