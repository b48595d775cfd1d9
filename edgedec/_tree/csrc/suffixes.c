/* A suffix automaton (Blumer et al. 1985), grown token by token, that remembers for each state
 * where it ended last. Beside it runs the match: the longest end of the text that occurred before.
 */
#include "suffixes.h"

#include <stdlib.h>
#include <string.h>

/* How far up the suffix links the latest end is written: shorter matches are rarely wanted, and a
 * text of one repeated token would make this quadratic. */
enum { CLIMB = 32 };

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

static int seen(const Suffixes *self, const Match *found, int count, int end)
{
    for (int i = 0; i < count; i++)
        if (self->tokens[found[i].end + 1] == self->tokens[end + 1])
            return 1;
    return 0;
}

int suffixes_places(const Suffixes *self, Match *found, int most)
{
    int count = 0, at = self->at, length = self->matched;
    most = smaller(most, MAX_PLACES);
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
    int count = suffixes_places(self, found, most);
    for (int i = 0; i < count; i++)
        found[i].end += self->dropped;
    return count;
}
