/* The planner and the draw: see tree_driver.c. */
#include "tree_dice.h"

/* --- planner ---------------------------------------------------------------------------------- */

typedef struct {
    int32_t *tokens, *parents, *rank, *riders;
    float *score;
    double *gains;
} Owned;

static Proposal propose(Dice *dice, int vocab, Owned *own)
{
    static const int32_t ranks[] = {0, 1, 2, 7, -1, INT32_MIN, INT32_MAX};
    int count = one_in(dice, 10) ? range(dice, 400, 700) : range(dice, 0, 30);
    int shape = range(dice, 0, 3), gains = one_in(dice, 8) ? 600 : range(dice, 0, 6);
    *own = (Owned){take(count, 4), take(count, 4),
                   take(count, 4), one_in(dice, 2) ? NULL : take(count + 1, 4),
                   take(count, 4), take(gains, 8)};
    for (int i = 0; i < count; i++) {
        /* Few tokens, so that siblings are the same ones. */
        own->tokens[i] = range(dice, 0, vocab - 1);
        own->parents[i] = !shape       ? i - 1
                          : shape == 1 ? -1
                                       : range(dice, shape == 2 ? i / 2 : 0, i) - 1;
        own->rank[i] = ranks[range(dice, 0, 6)];
        own->score[i] = odd(dice);
    }
    for (int i = 0; own->riders && i <= count; i++)
        own->riders[i] = one_in(dice, 20) ? (one_in(dice, 2) ? INT32_MAX : -1) : range(dice, 0, 5);
    for (int i = 0; i < gains; i++)
        own->gains[i] = odd(dice);
    return (Proposal){count,      own->tokens, own->parents, own->rank,
                      own->score, own->riders, own->gains,   gains,
                      range(dice, 1, 3)};
}

static void free_proposal(Owned *own)
{
    free(own->tokens);
    free(own->parents);
    free(own->rank);
    free(own->riders);
    free(own->score);
    free(own->gains);
}

/* Makes it something else than a tree of tokens, if there is anything to spoil. */
static int spoil(Dice *dice, const Proposal *given, Owned *own, int vocab)
{
    int at = given->count ? range(dice, 0, given->count - 1) : 0;
    const int32_t tokens[] = {-1, vocab, INT32_MIN, INT32_MAX};
    const int32_t parents[] = {at, at + 1, -2, INT32_MIN, INT32_MAX};
    if (!given->count)
        return 0;
    if (one_in(dice, 2))
        own->tokens[at] = tokens[range(dice, 0, 3)];
    else
        own->parents[at] = parents[range(dice, 0, 4)];
    return 1;
}

static void check_siblings(const Planner *planner, const Limits *limits)
{
    for (int i = 0; i <= planner->count; i++) {
        const Node *nodes = planner->nodes;
        float sum = 0;
        HOLD(nodes[i].left >= 0 && nodes[i].left <= 1);
        for (int c = nodes[i].first_child; c; c = nodes[c].next) {
            HOLD(c > i && c <= planner->count && nodes[c].parent == i);
            HOLD(nodes[c].depth == nodes[i].depth + 1 && nodes[c].depth <= limits->depth);
            HOLD(nodes[c].p > 0 && nodes[c].p < 1 && nodes[c].rank >= 0);
            HOLD(nodes[c].mask && nodes[c].mask < 1u << planner->sources);
            HOLD(nodes[c].score >= 0 && nodes[c].score <= 1);
            HOLD(nodes[c].path == nodes[i].path * nodes[c].p);
            sum += nodes[c].p;
            for (int other = nodes[c].next; other; other = nodes[other].next)
                HOLD(nodes[other].token != nodes[c].token);
        }
        HOLD(sum < 0.9851f);
    }
}

static void check_choice(Dice *dice, const Planner *planner, const Proposal *given,
                         const Limits *limits, int written)
{
    int room = limits->times_count - 1 - limits->pending, riders = 0;
    room = limits->budget < room ? limits->budget : room;
    for (int i = 0; i <= planner->count; i++) {
        const Node *node = &planner->nodes[i];
        HOLD(node->riders_kept >= 0 && node->riders_kept <= node->riders);
        HOLD(!node->riders || node->riders <= given[node->source].gain_count);
        if (node->riders) {
            int64_t levels = (int64_t)limits->depth - node->depth;
            HOLD(node->riders <= levels * given[node->source].lanes);
        }
        riders += node->riders_kept;
    }
    HOLD(written == planner->ordered && planner->kept >= 0 && planner->kept <= written);
    HOLD(written <= planner->count && planner->kept + riders <= (room > 0 ? room : 0));
    HOLD(planner->count <= MAX_NODES);
    for (int i = 0; i < written; i++) {
        const Node *node = &planner->nodes[planner->order[i]],
                   *above = &planner->nodes[node->parent];
        HOLD(planner->order[i] > 0 && planner->order[i] <= planner->count && node->place == i);
        HOLD(!node->parent || (above->place >= 0 && above->place < i));
        HOLD(!i || node->path <= planner->nodes[planner->order[i - 1]].path);
        add_to_hash(dice, &node->p, sizeof node->p);
    }
}

/* Often along the tree, else anything. */
static void check_learning(Dice *dice, Planner *planner, int written)
{
    int count = range(dice, 0, 20), sources = planner->sources, at = 0;
    int chosen = one_in(dice, 8) ? (one_in(dice, 2) ? INT_MAX : INT_MIN) : range(dice, -1, written);
    int32_t *emitted = take(count, 4);
    float *credits = take(2 * sources, 4), total = 0;
    for (int i = 0; i < count; i++) {
        at = planner->nodes[at].first_child;
        while (at && one_in(dice, 2))
            at = planner->nodes[at].next;
        emitted[i] = at ? planner->nodes[at].token : (int32_t)next(dice);
    }
    planner_learn(planner, emitted, count, chosen, one_in(dice, 2) ? UINT32_MAX : 5, credits);
    for (int s = 0; s < sources; s++) {
        HOLD(credits[s] >= 0 && credits[s] <= credits[sources + s] + 1e-3f);
        total += credits[sources + s];
    }
    HOLD(total <= (float)(chosen < written ? chosen > 0 ? chosen : 0 : written) + 0.01f);
    add_to_hash(dice, credits, (size_t)sources * 2 * sizeof *credits);
    free(emitted);
    free(credits);
}

static void one_turn(Dice *dice, Planner *planner)
{
    Proposal given[MAX_SOURCES];
    Owned own[MAX_SOURCES];
    int count = one_in(dice, 4) ? range(dice, 2, 3000) : range(dice, 2, 20), wrong = 0;
    double *times = take(count, sizeof *times), sum = 0;
    static const int32_t ends[] = {0, 2};
    Limits limits = {.pending = one_in(dice, 10) ? INT_MAX : range(dice, 1, 4),
                     .budget = one_in(dice, 3) ? range(dice, -2, 1) : range(dice, 0, 3000),
                     .depth = one_in(dice, 3) ? range(dice, -1, 5) : INT_MAX,
                     .vocab = one_in(dice, 3) ? 700 : range(dice, 1, 6),
                     .times = times,
                     .times_count = count,
                     .ends = ends,
                     .end_count = range(dice, 0, 2)};
    int strange = one_in(dice, 8), spoilt = one_in(dice, 8);
    for (int i = 0; i < count; i++)
        times[i] = strange ? odd(dice) : (sum += 1e-4 * unit(dice));
    for (int s = 0; s < planner->sources; s++) {
        given[s] = propose(dice, limits.vocab, &own[s]);
        if (spoilt && !wrong && one_in(dice, 2))
            wrong = spoil(dice, &given[s], &own[s], limits.vocab) ? 1 + s : 0;
    }
    if (wrong) {
        Planner *before = take(1, sizeof *before);
        memcpy(before, planner, sizeof *before);
        HOLD(planner_merge(planner, given, &limits) == wrong);
        HOLD(!memcmp(before, planner, sizeof *before));
        free(before);
    } else {
        int written;
        HOLD(!planner_merge(planner, given, &limits));
        written = planner_choose(planner, given, &limits);
        for (int i = 1; i <= planner->count; i++)
            for (int e = 0; e < limits.end_count; e++)
                HOLD(planner->nodes[i].token != limits.ends[e]);
        check_siblings(planner, &limits);
        check_choice(dice, planner, given, &limits, written);
    }
    check_learning(dice, planner, planner->ordered);
    planner_pace(planner, range(dice, 1, 9), 1e-3 * unit(dice));
    for (int s = 0; s < planner->sources; s++)
        free_proposal(&own[s]);
    free(times);
}

void plan_trees(Dice *dice)
{
    for (int sources = 0; sources <= MAX_SOURCES; sources++) {
        Planner *planner = calloc(1, sizeof *planner);
        HOLD(planner);
        *planner = (Planner){.sources = sources,
                             .rate_tokens = 1,
                             .rate_seconds = 1e-3,
                             .hits = calloc(CELLS, sizeof(float)),
                             .trials = calloc(CELLS, sizeof(float))};
        HOLD(planner->hits && planner->trials);
        check_learning(dice, planner, 0);
        for (int turn = 0; turn < 150; turn++)
            one_turn(dice, planner);
        /* What no clock says must not lead outside of an array either. */
        planner_pace(planner, NAN, 0);
        for (int turn = 0; turn < 10; turn++)
            one_turn(dice, planner);
        free(planner->hits);
        free(planner->trials);
        free(planner);
    }
}

/* --- draws ------------------------------------------------------------------------------------ */

/* As walk.py has it, a logarithm for every token. */
static int plain_draw(const float *logits, int vocab, double temperature, uint64_t seed,
                      uint64_t index)
{
    float peak = -INFINITY;
    double most = -INFINITY;
    int best = -1;
    for (int i = 0; i < vocab; i++) {
        if (isnan(logits[i]))
            return -1;
        peak = fmaxf(peak, logits[i]);
    }
    for (int i = 0; isfinite(peak) && i < vocab; i++) {
        float divisor = (float)fmax(temperature, 1e-30);
        float x = temperature != 1 ? (logits[i] - peak) / divisor : logits[i];
        double sum = isfinite(x) ? noise(noise_key(seed, index), i) + x : -INFINITY;
        if (sum > most)
            most = sum, best = i;
    }
    return best;
}

void draw_tokens(Dice *dice)
{
    static const int vocabs[] = {0, 1, 2, 15, 16, 17, 63, 64, 65, 129, 500};
    static const double warmths[] = {1, 1, 0.3, 0.8, 30, 0, 1e-320, 1e-9, 1e300, NAN, INFINITY, -1};
    for (int turn = 0; turn < 6000; turn++) {
        int vocab = vocabs[range(dice, 0, 10)], kind = range(dice, 0, 5), drawn;
        double warmth = warmths[range(dice, 0, 11)];
        /* Near 1e7 neighbouring numbers are 1 apart: the noise decides all the same. */
        float *logits = take(vocab, sizeof *logits), base = kind == 1 ? 1e7f : 0;
        uint64_t seed = next(dice), index = next(dice);
        for (int i = 0; i < vocab; i++) {
            float x = base + 6 * unit(dice);
            logits[i] = kind < 2                          ? x
                        : kind == 2                       ? -INFINITY
                        : kind == 3 && !one_in(dice, 200) ? (one_in(dice, 4) ? -INFINITY : x)
                        : kind == 4                       ? (one_in(dice, 2) ? FLT_MAX : -FLT_MAX)
                                                          : odd(dice);
        }
        drawn = noise_draw(logits, vocab, warmth, seed, index);
        HOLD(drawn == plain_draw(logits, vocab, warmth, seed, index));
        HOLD(drawn >= -1 && drawn < vocab && (kind != 2 || drawn == -1));
        add_to_hash(dice, &drawn, sizeof drawn);
        free(logits);
    }
}
