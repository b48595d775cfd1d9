/* What followed a context: a set-associative table, and trees grown from it best first. */
#include "tree.h"

#include <math.h>
#include <string.h>

/* How far a guess from one, two, ... tokens of context is trusted before it was ever checked. */
static const float TRUST[MAX_ORDER] = {0.6f, 0.8f, 0.9f, 0.9f};

/* Where noise is known, the guess of a rough distribution is made a little less sure of itself. */
static const double SHARPNESS = 0.7;

/* Heavier than any share or count. What a damaged table may hold besides, sums must stay finite. */
static const float HEAVIEST = 1e30f;

static const uint64_t GOLDEN = 0x9E3779B97F4A7C15ull;

/* More than any order. */
enum { SEEN = 8 };

uint64_t successors_key(const int32_t *newest, int order, int seen)
{
    uint64_t key = (uint64_t)(order + seen * SEEN) * GOLDEN;
    for (int i = 0; i < order; i++) {
        key = (key ^ ((uint64_t)(uint32_t)newest[-i] + 1)) * GOLDEN;
        key ^= key >> 32;
    }
    return key | 1;
}

static int find(const Successors *self, uint64_t key)
{
    int first = (int)(key >> 8 & (uint64_t)(self->sets - 1)) * WAYS;
    for (int i = first; i < first + WAYS; i++)
        if (self->keys[i] == key)
            return i;
    return -1;
}

/* The entry of a context; where there is none, the one of its set that was written longest ago. */
static int entry(Successors *self, uint64_t key)
{
    int first = (int)(key >> 8 & (uint64_t)(self->sets - 1)) * WAYS, oldest = first;
    int found = find(self, key);
    self->clock++;
    if (found < 0) {
        for (int i = first + 1; i < first + WAYS; i++)
            if (self->stamps[i] < self->stamps[oldest])
                oldest = i;
        found = oldest;
        self->keys[found] = key;
        for (int i = 0; i < WIDTH; i++) {
            self->ids[found * WIDTH + i] = -1;
            self->weights[found * WIDTH + i] = 0;
        }
    }
    self->stamps[found] = self->clock;
    return found;
}

/* Add to a token's weight; the smallest makes room for a token that is not there. -1 means that
 * there is nothing, so a number below 0 cannot be a token. */
static void add(int32_t *ids, float *weights, int32_t token, float weight)
{
    int at = 0;
    if (token < 0)
        return;
    while (at < WIDTH - 1 && ids[at] >= 0 && ids[at] != token)
        at++;
    if (ids[at] != token) {
        if (ids[at] >= 0 && weights[at] > weight)
            return;
        ids[at] = token;
        weights[at] = 0;
    }
    weight += weights[at];
    for (; at && weights[at - 1] < weight; at--) {
        ids[at] = ids[at - 1];
        weights[at] = weights[at - 1];
    }
    ids[at] = token;
    weights[at] = weight;
}

void successors_mix(Successors *self, uint64_t key, const int32_t *ids, const float *shares,
                    int count, float rate)
{
    int known = find(self, key) >= 0, at = entry(self, key) * WIDTH;
    float kept = known ? 1 - rate : 0, fresh = known ? rate : 1;
    for (int i = 0; i < WIDTH; i++)
        self->weights[at + i] *= kept;
    for (int i = 0; i < count; i++)
        if (shares[i] > 0 && shares[i] < HEAVIEST)
            add(self->ids + at, self->weights + at, ids[i], fresh * shares[i]);
}

void successors_count(Successors *self, uint64_t key, int32_t token)
{
    int at = entry(self, key) * WIDTH;
    self->counted = 1;
    add(self->ids + at, self->weights + at, token, 1);
}

typedef struct {
    double path;
    int serial; /* of equal paths the one that came first */
    int32_t token, parent, rank;
    float score;
} Candidate;

typedef struct {
    Candidate at[MAX_NODES * WIDTH];
    int count, pushed;
} Heap;

static int before(const Candidate *a, const Candidate *b)
{
    return a->path > b->path || (a->path == b->path && a->serial < b->serial);
}

static void push(Heap *heap, Candidate x)
{
    int i = heap->count++;
    x.serial = heap->pushed++;
    for (; i && before(&x, &heap->at[(i - 1) / 2]); i = (i - 1) / 2)
        heap->at[i] = heap->at[(i - 1) / 2];
    heap->at[i] = x;
}

static Candidate pop(Heap *heap)
{
    Candidate top = heap->at[0], x = heap->at[--heap->count];
    int i = 0;
    for (int child; (child = 2 * i + 1) < heap->count; i = child) {
        if (child + 1 < heap->count && before(&heap->at[child + 1], &heap->at[child]))
            child++;
        if (before(&x, &heap->at[child]))
            break;
        heap->at[i] = heap->at[child];
    }
    heap->at[i] = x;
    return top;
}

/* What may follow, of what has been said for it: weights, later probabilities. */
typedef struct {
    int32_t ids[2 * WIDTH];
    double weights[2 * WIDTH];
    int count, order; /* the longest context's */
} Likely;

/* What the longest of the contexts up to `most` tokens holds joins. */
static void join(const Successors *self, const int32_t *newest, int most, int seen, Likely *out)
{
    int order = most, at = -1;
    for (; order >= self->first; order--)
        if ((at = find(self, successors_key(newest, order, seen))) >= 0)
            break;
    if (at < 0)
        return;
    out->order = order > out->order ? order : out->order;
    for (int i = at * WIDTH; i < (at + 1) * WIDTH; i++) {
        int place = 0;
        if (self->ids[i] < 0 || !(self->weights[i] > 0))
            break;
        while (place < out->count && out->ids[place] != self->ids[i])
            place++;
        if (place == out->count) {
            out->ids[out->count++] = self->ids[i];
            out->weights[place] = 0;
        }
        out->weights[place] += self->weights[i];
    }
}

/* Weights become probabilities: shares of their sum. Of counts, whose sum is above 1, some is kept
 * back for what was never seen. */
static void share_out(Likely *likely, double noise_temperature, uint64_t key)
{
    double *out = likely->weights, sum = 0, peak = -INFINITY;
    double divisor = fmax(noise_temperature, 1e-30);
    for (int i = 0; i < likely->count; i++)
        sum += out[i];
    if (!(noise_temperature > 0)) {
        for (int i = 0; i < likely->count; i++)
            out[i] /= sum + fmin(fmax(sum - 1, 0), 0.5);
        return;
    }
    for (int i = 0; i < likely->count; i++) {
        out[i] = SHARPNESS * (log(out[i] / sum) / divisor + noise(key, likely->ids[i]));
        peak = out[i] > peak ? out[i] : peak;
    }
    sum = 0;
    for (int i = 0; i < likely->count; i++)
        sum += out[i] = exp(out[i] - peak);
    for (int i = 0; i < likely->count; i++)
        out[i] /= sum;
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* The successors of a node join the heap, the likeliest first in rank. */
static void expand(const Successors *self, const int32_t *newest, int known, Candidate node,
                   int index, uint64_t key, const Growth *how, Heap *heap)
{
    Likely likely = {.count = 0};
    join(self, newest, least(known, self->longest), 0, &likely);
    if (self->counted)
        join(self, newest, least(known, self->last), 1, &likely);
    share_out(&likely, how->temperature, key);
    for (int i = 0; i < likely.count && heap->count < MAX_NODES * WIDTH; i++) {
        const double *share = likely.weights;
        int rank = 0;
        float score = (float)share[i] * TRUST[likely.order - 1];
        for (int j = 0; j < likely.count; j++)
            rank += share[j] > share[i] || (share[j] == share[i] && j < i);
        push(heap, (Candidate){node.path * score, 0, likely.ids[i], index, rank, score});
    }
}

int successors_grow(const Successors *self, const int32_t *newest, int known, const Growth *how,
                    const Grown *out)
{
    static _Thread_local Heap heap;
    /* Of its own: arrays that the caller mixes up must not lead anywhere. */
    int32_t depths[MAX_NODES], tokens[MAX_NODES], parents[MAX_NODES];
    int count = 0, nodes = how->nodes < MAX_NODES ? how->nodes : MAX_NODES;
    heap.count = heap.pushed = 0;
    expand(self, newest, known, (Candidate){.path = 1}, -1, noise_key(how->seed, how->index), how,
           &heap);
    while (heap.count && count < nodes) {
        Candidate node = pop(&heap);
        int32_t path[MAX_ORDER];
        int length = 0, at = count;
        int depth = node.parent < 0 ? 1 : depths[node.parent] + 1;
        out->tokens[count] = tokens[count] = node.token;
        out->parents[count] = parents[count] = node.parent;
        out->rank[count] = node.rank;
        out->score[count] = node.score;
        depths[count++] = depth;
        if (depth >= how->depth || count == nodes)
            continue;
        /* The context of the node: its ancestors, then the text, newest last. */
        for (int i = 0; i < MAX_ORDER; i++) {
            if (at >= 0) {
                path[MAX_ORDER - 1 - i] = tokens[at];
                at = parents[at];
                length++;
            } else if (i - depth < known) {
                path[MAX_ORDER - 1 - i] = newest[-(i - depth)];
                length++;
            } else {
                break;
            }
        }
        expand(self, path + MAX_ORDER - 1, length, node, count - 1,
               noise_key(how->seed, how->index + (uint64_t)depth), how, &heap);
    }
    return count;
}
