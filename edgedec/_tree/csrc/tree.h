/* The hot part of drafting: what is looked up, merged, planned, followed and drawn in every turn.
 *
 * Plain C that knows no Python (`binding.c` does) and no model. Each piece has a twin in Python
 * beside this folder, which says what it means; tests hold the two together.
 */
#ifndef EDGEDEC_TREE_H
#define EDGEDEC_TREE_H

#include <stddef.h>
#include <stdint.h>

/* --- noise.c: the Gumbel draw (edgedec/gumbel.py has the definition) -------------------------- */

uint64_t noise_key(uint64_t seed, uint64_t index);
double noise(uint64_t key, int32_t token);
/* argmax of scaled logits + noise; -1 if the logits hold no number to choose by. */
int noise_draw(const float *logits, int vocab, double temperature, uint64_t seed, uint64_t index);

/* A tree to write: [nodes asked for] of each. */
typedef struct {
    int32_t *tokens, *parents, *rank;
    float *score;
} Grown;

/* Whether a token is among some, which are given rising. */
static inline int is_among(const int32_t *tokens, int count, int32_t token)
{
    int low = 0, high = count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (tokens[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && tokens[low] == token;
}

/* --- suffixes.c: a suffix automaton that grows with a text ------------------------------------ */

typedef struct Suffixes Suffixes;

/* Of a text so long, states and edges can still be counted; matches that are looked for. */
enum { MAX_LIMIT = 1 << 27, MAX_PLACES = 16 };

/* `limit`: 2 to MAX_LIMIT tokens; `ends`, rising: tokens that no copy goes on to. NULL when memory
 * is short. */
Suffixes *suffixes_open(int limit, const int32_t *ends, int end_count);
void suffixes_close(Suffixes *self);
void suffixes_reset(Suffixes *self);
int64_t suffixes_length(const Suffixes *self);
/* 0, or -1 when memory is short (the text is then forgotten). */
int suffixes_push(Suffixes *self, int32_t token);

typedef struct {
    int length;
    int64_t end;
} Match;

/* Up to `most` earlier places that the text's end repeats, each followed by another token; never
 * more than MAX_PLACES. */
int suffixes_match(const Suffixes *self, Match *found, int most);

typedef struct {
    int most, branches, shortest;
} Copying;

/* copies.c: chains of tokens copied on from such places; where the text has just left a passage that
 * was copied, from behind the change. Returns the number of nodes, at most `how->most`. */
int suffixes_copy(Suffixes *self, const Copying *how, const Grown *out);

/* --- successors.c: what followed a context, by its last one, two, ... tokens ------------------ */

enum { WIDTH = 8, WAYS = 4, MAX_ORDER = 4 };

typedef struct {
    int sets, first, last; /* sets of WAYS entries; the lengths of contexts that are entered */
    int longest;           /* those that were loaded may be longer */
    int counted;           /* whether anything was */
    uint32_t clock;
    uint64_t *keys;   /* [sets * WAYS], 0 where there is nothing */
    uint32_t *stamps; /* [sets * WAYS]: when an entry was last written */
    int32_t *ids;     /* [sets * WAYS, WIDTH], -1 where there is nothing */
    float *weights;   /* [sets * WAYS, WIDTH], largest first */
} Successors;

typedef struct {
    int nodes, depth;
    double temperature;
    uint64_t seed, index;
} Growth;

/* Of the `order` tokens that end with `newest`: for what is likely behind them, or for what was
 * `seen` there. */
uint64_t successors_key(const int32_t *newest, int order, int seen);
/* Mix in the shares of some tokens; a rate of 1 overwrites. No share of a token below 0 is taken,
 * and none that is no number above 0, so that all weights stay finite. */
void successors_mix(Successors *self, uint64_t key, const int32_t *ids, const float *shares,
                    int count, float rate);
void successors_count(Successors *self, uint64_t key, int32_t token);
/* What is likely and what was seen are added up, each behind the longest context that is known. At most `nodes` and MAX_NODES nodes below the last of `known` tokens, 1 or more. */
int successors_grow(const Successors *self, const int32_t *newest, int known, const Growth *how,
                    const Grown *out);

/* --- planner.c: merging, calibration, the tree that pays -------------------------------------- */

enum { MAX_NODES = 512, MAX_SOURCES = 8, DEPTHS = 6, RANKS = 4, SCORES = 9 };
enum { MAX_ITEMS = 4 * MAX_NODES }; /* nodes and riders, of which the tree that pays is chosen */
#define CELLS ((1 << MAX_SOURCES) * DEPTHS * RANKS * SCORES)

typedef struct {
    int count;
    const int32_t *tokens, *parents, *rank;
    const float *score;
    const int32_t *riders; /* [count + 1] how many hang below the root and each node, or NULL */
    const double *gains;   /* what the j-th of them adds */
    int gain_count, lanes;
} Proposal;

typedef struct {
    int32_t token, parent, depth, rank, source, origin, first_child, next, place;
    int32_t riders, riders_kept;
    uint32_t mask;
    float score, counted, p, path, left; /* counted: p without what was seen of late */
    float claims, riding; /* sums of scores: of all, and of those that offer riders */
} Node;

typedef struct {
    int sources, count, ordered, kept; /* nodes below the root, those in `order`, those that pay */
    double rate_tokens, rate_seconds, value;
    float *hits, *trials; /* [CELLS] */
    /* Of each set of drafters: sums of scores and of what was right, and the same by score. */
    float said[1 << MAX_SOURCES], was[1 << MAX_SOURCES];
    float score_hits[SCORES << MAX_SOURCES], score_trials[SCORES << MAX_SOURCES];
    float late_said[2], late_was[2]; /* of late: first nodes, and those below them */
    Node nodes[MAX_NODES + 1]; /* 0 is the root */
    int32_t order[MAX_NODES];
} Planner;

typedef struct {
    int pending, budget, depth, vocab;
    const double *times; /* T of 0, 1, ... rows */
    int times_count;
    const int32_t *ends; /* rising: tokens that end the text, of which nothing comes */
    int end_count;
} Limits;

/* 0; or 1 + the number of the proposal that is no tree of tokens: then nothing has changed. */
int planner_merge(Planner *self, const Proposal *given, const Limits *limits);
/* How many nodes of `order` pay; riders are chosen with them. */
int planner_choose(Planner *self, const Proposal *given, const Limits *limits);
/* credits [2, sources]: the nodes on the emitted path among the first `chosen`, and all of these;
 * who proposed a node shares it, if any of the set `cheap` did, these alone. */
void planner_learn(Planner *self, const int32_t *emitted, int count, int chosen, uint32_t cheap,
                   float *credits);
/* A turn gave so many tokens in so much time. */
void planner_pace(Planner *self, double tokens, double seconds);

#endif
