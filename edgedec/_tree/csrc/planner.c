/* Proposals become one tree, its nodes get calibrated probabilities, and the part that pays is
 * chosen. */
#include "tree.h"

#include <math.h>
#include <string.h>

/* Each estimate is the prior of a finer one, and counts as so many checks: how right a set of
 * drafters is on the whole, for one score, and for one kind of node. Beyond LATEST the older half
 * is forgotten. */
static const float PRIOR = 6, LATEST = 200;
static const float LOWEST = 0.005f, HIGHEST = 0.985f;
/* One text is not like another: how right guesses were in the last 1 / (1 - LATE) turns, beside
 * what their counts said, is what these are corrected by; at first it counts as right as so many.
 */
static const float LATE = 0.93f, AT_FIRST = 4, LEAST = 0.3f, MOST = 1.3f;
/* The rate is that of the last 1 / (1 - MEMORY) turns, about. */
static const double MEMORY = 0.97;

static int bucket(float score)
{
    static const float edges[SCORES - 1] = {0.04f, 0.1f, 0.2f, 0.35f, 0.55f, 0.75f, 0.9f, 0.96f};
    int i = 0;
    while (i < SCORES - 1 && score >= edges[i])
        i++;
    return i;
}

static int cell(const Node *node)
{
    int depth = node->depth > 1;
    for (int limit = 2; depth && depth < DEPTHS - 1 && node->depth > limit; limit *= 2)
        depth++;
    int rank = node->rank < RANKS - 1 ? node->rank : RANKS - 1;
    return (((int)node->mask * DEPTHS + depth) * RANKS + rank) * SCORES + bucket(node->score);
}

/* --- merging ---------------------------------------------------------------------------------- */

static int child(Planner *self, int parent, int32_t token, int depth)
{
    int *link = &self->nodes[parent].first_child;
    for (; *link; link = &self->nodes[*link].next)
        if (self->nodes[*link].token == token)
            return *link;
    if (self->count == MAX_NODES)
        return 0;
    *link = ++self->count;
    self->nodes[*link] =
        (Node){.token = token, .parent = parent, .depth = depth, .rank = 1 << 20, .source = -1};
    return *link;
}

static void join(Node *node, int source, const Proposal *given, int index)
{
    float score = given->score[index];
    if (!(score > 0))
        score = 0;
    node->mask |= 1u << source;
    score = fminf(score, 1);
    node->score = fmaxf(node->score, score);
    node->claims += score;
    node->riding += given->riders ? score : 0;
    if (given->rank[index] < node->rank)
        node->rank = given->rank[index] < 0 ? 0 : given->rank[index];
}

/* Those of one entry, unless there are more; none prepares what lies beyond the text. */
static void add_riders(Node *node, int source, const Proposal *given, int entry, int depth)
{
    int64_t room = ((int64_t)depth - node->depth) * given->lanes, count;
    if (!given->riders)
        return;
    count = given->riders[entry] < given->gain_count ? given->riders[entry] : given->gain_count;
    count = count < room ? count : room;
    if (count > node->riders) {
        node->riders = (int32_t)count;
        node->source = source;
        node->origin = entry;
    }
}

/* Whether parents stand before their children, and all are tokens. */
static int is_tree(const Proposal *given, int vocab)
{
    for (int i = 0; i < given->count; i++)
        if (given->tokens[i] < 0 || given->tokens[i] >= vocab || given->parents[i] < -1 ||
            given->parents[i] >= i)
            return 0;
    return 1;
}

int planner_merge(Planner *self, const Proposal *given, const Limits *limits)
{
    int32_t map[MAX_NODES];
    for (int s = 0; s < self->sources; s++)
        if (!is_tree(&given[s], limits->vocab))
            return 1 + s;
    self->count = self->ordered = self->kept = 0;
    self->nodes[0] = (Node){.token = -1, .parent = -1, .p = 1, .path = 1, .source = -1};
    for (int s = 0; s < self->sources; s++) {
        const Proposal *p = &given[s];
        if (p->count || p->riders)
            add_riders(&self->nodes[0], s, p, 0, limits->depth);
        for (int i = 0; i < p->count && i < MAX_NODES; i++) {
            int parent = p->parents[i], above = parent < 0 ? 0 : map[parent];
            map[i] = -1;
            if (above < 0 || self->nodes[above].depth >= limits->depth ||
                is_among(limits->ends, limits->end_count, p->tokens[i]))
                continue;
            map[i] = child(self, above, p->tokens[i], self->nodes[above].depth + 1);
            if (!map[i]) {
                map[i] = -1;
                continue;
            }
            join(&self->nodes[map[i]], s, p, i);
            add_riders(&self->nodes[map[i]], s, p, i + 1, limits->depth);
        }
    }
    /* Riders prepare what follows, whoever proposed what they hang below. */
    for (int s = 0; s < self->sources; s++)
        for (int i = 1; given[s].riders && i <= self->count; i++)
            if (!(self->nodes[i].mask >> s & 1))
                add_riders(&self->nodes[i], s, &given[s], 0, limits->depth);
    return 0;
}

/* --- probabilities ---------------------------------------------------------------------------- */

static float of_late(const Planner *self, int deeper)
{
    float factor = (self->late_was[deeper] + AT_FIRST) / (self->late_said[deeper] + AT_FIRST);
    return fminf(fmaxf(factor, LEAST), MOST);
}

static void calibrate(Planner *self)
{
    float factors[2] = {of_late(self, 0), of_late(self, 1)};
    for (int i = 1; i <= self->count; i++) {
        Node *node = &self->nodes[i];
        int at = cell(node), same = (int)node->mask * SCORES + bucket(node->score);
        float whole = (self->was[node->mask] + PRIOR) / (self->said[node->mask] + PRIOR);
        float prior = fminf(fmaxf(node->score * whole, LOWEST), HIGHEST);
        prior = (self->score_hits[same] + PRIOR * prior) / (self->score_trials[same] + PRIOR);
        node->counted = (self->hits[at] + PRIOR * prior) / (self->trials[at] + PRIOR);
        node->p = fminf(node->counted * factors[node->depth > 1], HIGHEST);
    }
}

/* Only one of several siblings can be right: together they may not pass HIGHEST. Parents first, so
 * a path is the parent's times the node's own. */
static void spread(Planner *self)
{
    for (int i = 0; i <= self->count; i++) {
        Node *node = &self->nodes[i];
        float sum = 0;
        for (int c = node->first_child; c; c = self->nodes[c].next)
            sum += self->nodes[c].p;
        for (int c = node->first_child; c; c = self->nodes[c].next) {
            if (sum > HIGHEST)
                self->nodes[c].p *= HIGHEST / sum;
            self->nodes[c].path = node->path * self->nodes[c].p;
        }
        node->left = node->path * (1 - fminf(sum, HIGHEST));
    }
}

/* --- what pays -------------------------------------------------------------------------------- */

typedef struct {
    double key, value; /* what it is ordered by, what it brings */
    int node, rider;   /* rider: 0 for the node itself, j for its j-th rider */
} Item;

/* Where there is no room the unworthiest falls out. */
static void sort_in(Item *items, int *count, int room, Item x)
{
    int at = *count;
    if (at == room && (!room || !(items[--at].key < x.key)))
        return;
    for (; at && items[at - 1].key < x.key; at--)
        items[at] = items[at - 1];
    items[at] = x;
    *count += *count < room;
}

static int listed(Planner *self, const Proposal *given, Item *items, int room)
{
    int count = 0;
    for (int i = 0; i <= self->count; i++) {
        const Node *node = &self->nodes[i];
        double key = node->path;
        if (i)
            sort_in(items, &count, room, (Item){key, node->path, i, 0});
        for (int j = 0; j < node->riders; j++) {
            double value = node->left * given[node->source].gains[j];
            /* Never before what it hangs below. */
            key = fmin(key, value);
            sort_in(items, &count, room, (Item){key, value, i, j + 1});
        }
    }
    return count;
}

int planner_choose(Planner *self, const Proposal *given, const Limits *limits)
{
    static _Thread_local Item items[MAX_ITEMS];
    double rate = self->rate_tokens / self->rate_seconds, value = 0, best;
    int count, nodes = 0, taken = 0, most = limits->times_count - 1;
    int room = limits->budget < MAX_ITEMS ? limits->budget : MAX_ITEMS;
    if (room > most - limits->pending)
        room = most - limits->pending;
    calibrate(self);
    spread(self);
    count = listed(self, given, items, room > 0 ? room : 0);
    best = -rate * limits->times[limits->pending < most ? limits->pending : most];
    self->kept = 0;
    self->value = 0;
    for (int k = 0; k < count; k++) {
        double worth;
        value += items[k].value;
        worth = value - rate * limits->times[limits->pending + k + 1];
        if (worth > best) {
            best = worth;
            self->value = value;
            taken = k + 1;
        }
    }
    for (int i = 0; i <= self->count; i++)
        self->nodes[i].place = -1, self->nodes[i].riders_kept = 0;
    for (int k = 0; k < count; k++) {
        Node *node = &self->nodes[items[k].node];
        if (items[k].rider) {
            if (k < taken)
                node->riders_kept = items[k].rider;
            continue;
        }
        node->place = nodes;
        self->order[nodes++] = items[k].node;
        self->kept += k < taken;
    }
    self->ordered = nodes;
    return nodes;
}

/* --- learning --------------------------------------------------------------------------------- */

static void count_into(float *trials, float *hits, float weight, int right)
{
    if (*trials >= LATEST) {
        *trials /= 2;
        *hits /= 2;
    }
    *trials += weight;
    *hits += (float)right;
}

static void count_check(Planner *self, const Node *node, int right)
{
    int at = cell(node), same = (int)node->mask * SCORES + bucket(node->score);
    count_into(&self->trials[at], &self->hits[at], 1, right);
    count_into(&self->score_trials[same], &self->score_hits[same], 1, right);
    count_into(&self->said[node->mask], &self->was[node->mask], node->score, right);
}

static void share(const Planner *self, const Node *node, uint32_t cheap, float *credits)
{
    uint32_t mask = node->mask & cheap ? node->mask & cheap : node->mask;
    int among = 0;
    for (int s = 0; s < self->sources; s++)
        among += mask >> s & 1;
    for (int s = 0; s < self->sources; s++)
        if (mask >> s & 1)
            credits[s] += 1.0f / (float)among;
}

void planner_learn(Planner *self, const int32_t *emitted, int count, int chosen, uint32_t cheap,
                   float *credits)
{
    int at = 0;
    for (int i = 0; i < 2 * self->sources; i++)
        credits[i] = 0;
    for (int i = 0; i < chosen && i < self->ordered; i++)
        share(self, &self->nodes[self->order[i]], cheap, credits + self->sources);
    for (int i = 0; i < 2; i++)
        self->late_said[i] *= LATE, self->late_was[i] *= LATE;
    for (int depth = 0; depth < count && at >= 0; depth++) {
        int right = -1;
        float said = 0;
        for (int c = self->nodes[at].first_child; c; c = self->nodes[c].next) {
            int hit = self->nodes[c].token == emitted[depth];
            count_check(self, &self->nodes[c], hit);
            said += self->nodes[c].counted;
            if (hit)
                right = c;
        }
        self->late_said[depth > 0] += fminf(said, HIGHEST);
        self->late_was[depth > 0] += (float)(right > 0);
        if (right > 0 && self->nodes[right].place >= 0 && self->nodes[right].place < chosen)
            share(self, &self->nodes[right], cheap, credits);
        at = right;
    }
}

void planner_pace(Planner *self, double tokens, double seconds)
{
    self->rate_tokens = MEMORY * self->rate_tokens + (1 - MEMORY) * tokens;
    self->rate_seconds = MEMORY * self->rate_seconds + (1 - MEMORY) * seconds;
}
