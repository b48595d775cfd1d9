/* Every piece of edgedec/_tree/csrc, driven with random and hostile numbers and without Python.
 *
 *   tree_driver SEED THREADS
 *
 * Prints a hash of all that came out; THREADS of them, side by side, must agree on it. What is
 * written to lies in arrays of just the size that was asked for, so that a sanitizer sees their
 * ends. suffixes.c is compiled with the allocators below, which run dry when they are told to.
 */
#include <pthread.h>

#include "tree_dice.h"

enum { MOST_THREADS = 8 };

static Grown take_tree(int room)
{
    return (Grown){take(room, 4), take(room, 4), take(room, 4), take(room, 4)};
}

static void free_tree(Dice *dice, Grown *tree, int count)
{
    add_to_hash(dice, tree->tokens, (size_t)count * 4);
    add_to_hash(dice, tree->score, (size_t)count * 4);
    free(tree->tokens);
    free(tree->parents);
    free(tree->rank);
    free(tree->score);
}

/* --- suffixes --------------------------------------------------------------------------------- */

static _Thread_local int grants = -1; /* how many allocations succeed from now on; -1: all */

static int granted(void)
{
    grants -= grants > 0;
    return grants != 0;
}

void *scarce_malloc(size_t size)
{
    return granted() ? malloc(size) : NULL;
}

void *scarce_calloc(size_t count, size_t size)
{
    return granted() ? calloc(count, size) : NULL;
}

void *scarce_realloc(void *old, size_t size)
{
    return granted() ? realloc(old, size) : NULL;
}

enum { TEXTS = 8 };

static int32_t token_of(Dice *dice, int kind, const int32_t *text, int size)
{
    switch (kind) {
    case 0: return 7;
    case 1: return size & 1;
    case 2: return size % 17;
    case 3: return range(dice, 0, 1);
    case 4: return range(dice, 0, 50);
    case 5: return (int32_t)next(dice); /* whatever fits into 32 bits is a token here */
    case 6: {
        /* Ever longer runs of 0, each with an end of its own: many places to go on from. */
        int root = (int)sqrt(8.0 * size + 1);
        return root * root == 8 * size + 1 ? size : 0;
    }
    default:
        /* Passages copied, with changes. */
        return size > 40 && !one_in(dice, 15) ? text[size - 37] : range(dice, 0, 500);
    }
}

static void check_matches(Dice *dice, const Suffixes *self, const int32_t *text, int size)
{
    static const int asked[] = {-1, 0, 1, 3, MAX_PLACES, INT_MAX};
    int most = asked[range(dice, 0, 5)], room = most < MAX_PLACES ? most : MAX_PLACES;
    Match *found = take(room, sizeof *found);
    int count = suffixes_match(self, found, most);
    HOLD(count >= 0 && count <= (room > 0 ? room : 0));
    for (int i = 0; i < count; i++) {
        int length = found[i].length, end = (int)found[i].end;
        HOLD(length > 0 && end - length + 1 >= 0 && end + 1 < size);
        HOLD(!memcmp(text + end - length + 1, text + size - length, (size_t)length * 4));
        HOLD(!i || length <= found[i - 1].length);
        for (int j = 0; j < i; j++)
            HOLD(text[end + 1] != text[found[j].end + 1]);
        add_to_hash(dice, &length, sizeof length);
    }
    free(found);
}

static void check_copy(Dice *dice, Suffixes *self, int size, int ends)
{
    int most = one_in(dice, 20) ? INT_MIN : range(dice, -1, one_in(dice, 20) ? 3000 : 40);
    Copying how = {most, range(dice, -2, 30), range(dice, -2, 5)};
    Grown out = take_tree(most);
    Match best;
    int found = suffixes_match(self, &best, 1) && best.length >= how.shortest && how.branches > 0;
    int count = suffixes_copy(self, &how, &out);
    HOLD(count >= 0 && count <= (most > 0 ? most : 0));
    HOLD(ends || !found || most < 1 || count);
    HOLD(!count || !out.rank[0]);
    HOLD(size || !count);
    for (int i = 0; i < count; i++) {
        HOLD(out.parents[i] == -1 || (i && out.parents[i] == i - 1));
        HOLD(out.score[i] > 0 && out.score[i] <= 1);
        /* Chains are numbered in order. */
        if (i)
            HOLD(out.rank[i] == out.rank[i - 1] + (out.parents[i] < 0));
    }
    free_tree(dice, &out, count);
}

static void read_texts(Dice *dice)
{
    static const int limits[] = {2, 3, 5, 64, 1000, 4000};
    enum { SIZE = 2500 };
    int32_t *text = take(SIZE, sizeof *text);
    for (int i = 0; i < 6 * TEXTS; i++) {
        static const int32_t ends[] = {1, 3};
        Suffixes *self = suffixes_open(limits[i / TEXTS], ends, i % 3);
        HOLD(self);
        for (int size = 0; size < SIZE; size++) {
            if (one_in(dice, 8))
                check_copy(dice, self, size, i % 3);
            if (one_in(dice, 8))
                check_matches(dice, self, text, size);
            text[size] = token_of(dice, i % TEXTS, text, size);
            HOLD(!suffixes_push(self, text[size]));
            HOLD(suffixes_length(self) == size + 1);
        }
        suffixes_reset(self);
        HOLD(!suffixes_length(self));
        check_copy(dice, self, 0, i % 3);
        suffixes_close(self);
    }
    free(text);
}

/* Wherever memory runs out, what is left is an empty text, and a good one. */
static void run_dry(Dice *dice)
{
    int32_t text[700];
    for (int allowed = 0; allowed < 20; allowed++) {
        Suffixes *self, *fresh = NULL;
        grants = allowed + 1;
        self = suffixes_open(300, NULL, 0);
        HOLD(self || allowed < 3);
        for (int size = 0; self && size < 700; size++) {
            text[size] = token_of(dice, TEXTS - 1, text, size);
            if (suffixes_push(self, text[size])) {
                HOLD(!fresh && !suffixes_length(self));
                grants = -1;
                fresh = suffixes_open(300, NULL, 0);
            } else if (fresh) {
                Match one[3], other[3];
                int count = suffixes_match(self, one, 3);
                HOLD(!suffixes_push(fresh, text[size]));
                count = suffixes_match(self, one, 3);
                HOLD(count == suffixes_match(fresh, other, 3));
                HOLD(suffixes_length(self) == suffixes_length(fresh));
                for (int i = 0; i < count; i++)
                    HOLD(one[i].length == other[i].length && one[i].end == other[i].end);
            }
        }
        grants = -1;
        suffixes_close(self);
        suffixes_close(fresh);
    }
}

/* --- successors ------------------------------------------------------------------------------- */

static int32_t odd_token(Dice *dice)
{
    static const int32_t all[] = {-1, INT32_MIN, INT32_MAX, -2};
    return one_in(dice, 12) ? all[range(dice, 0, 3)] : range(dice, 0, 12);
}

static void check_entries(const Successors *table)
{
    for (int i = 0; i < table->sets * WAYS; i++) {
        const int32_t *ids = table->ids + i * WIDTH;
        const float *weights = table->weights + i * WIDTH;
        for (int j = 0; table->keys[i] && j < WIDTH; j++) {
            HOLD(isfinite(weights[j]) && weights[j] >= 0);
            HOLD(!j || weights[j] <= weights[j - 1]);
            HOLD(ids[j] >= -1 && (ids[j] >= 0 || !(weights[j] > 0)));
            for (int k = 0; k < j; k++)
                HOLD(ids[j] == -1 || (ids[k] != ids[j] && ids[k] >= 0));
        }
    }
}

static void check_growth(Dice *dice, const Successors *table, const int32_t *newest, int known)
{
    static const int sizes[] = {-1, 0, 1, 12, 100, MAX_NODES, INT_MAX};
    static const double warmths[] = {0, 0.7, 1, 1e-320, -1, 1e300, NAN, INFINITY};
    Growth how = {sizes[range(dice, 0, 6)], one_in(dice, 4) ? INT_MAX : range(dice, 1, 6),
                  warmths[range(dice, 0, 7)], next(dice), next(dice)};
    int room = how.nodes < MAX_NODES ? how.nodes : MAX_NODES;
    Grown out = take_tree(room);
    int count = successors_grow(table, newest, known, &how, &out), depth[MAX_NODES];
    double path[MAX_NODES], sum[MAX_NODES + 1] = {0};
    HOLD(count >= 0 && count <= (room > 0 ? room : 0));
    for (int i = 0; i < count; i++) {
        int parent = out.parents[i];
        HOLD(parent >= -1 && parent < i && out.tokens[i] >= 0);
        HOLD(out.score[i] >= 0 && out.score[i] < 1 && out.rank[i] >= 0 && out.rank[i] < 2 * WIDTH);
        depth[i] = parent < 0 ? 1 : depth[parent] + 1;
        path[i] = (parent < 0 ? 1 : path[parent]) * out.score[i];
        HOLD(depth[i] <= how.depth && (!i || path[i] <= path[i - 1]));
        sum[parent + 1] += out.score[i];
        HOLD(sum[parent + 1] <= 1 + 1e-6);
    }
    free_tree(dice, &out, count);
}

static void learn_contexts(Dice *dice)
{
    static const int all_sets[] = {1, 2, 64};
    for (int first = 1; first <= MAX_ORDER; first++)
        for (int last = first; last <= MAX_ORDER; last++) {
            int sets = all_sets[range(dice, 0, 2)], ways = sets * WAYS;
            Successors table = {.sets = sets,
                                .first = first,
                                .last = last,
                                .longest = range(dice, last, MAX_ORDER),
                                .keys = calloc((size_t)ways, sizeof(uint64_t)),
                                .stamps = calloc((size_t)ways, sizeof(uint32_t)),
                                .ids = calloc((size_t)(ways * WIDTH), sizeof(int32_t)),
                                .weights = calloc((size_t)(ways * WIDTH), sizeof(float))};
            for (int turn = 0; turn < 1500; turn++) {
                int known = range(dice, 1, MAX_ORDER + 1), count = range(dice, 0, 2 * WIDTH);
                int32_t *text = take(known, 4), *ids = take(count, 4);
                float *shares = take(count, 4);
                for (int i = 0; i < known; i++)
                    text[i] = range(dice, 0, 3);
                for (int i = 0; i < count; i++)
                    ids[i] = odd_token(dice), shares[i] = odd(dice);
                for (int order = first; order <= table.longest && order <= known; order++) {
                    uint64_t key = successors_key(text + known - 1, order, 0);
                    uint64_t seen = successors_key(text + known - 1, order, 1);
                    successors_mix(&table, key, ids, shares, count,
                                   one_in(dice, 3) ? (float)range(dice, 0, 1) : unit(dice));
                    successors_count(&table, seen, odd_token(dice));
                }
                if (one_in(dice, 10))
                    check_growth(dice, &table, text + known - 1, known);
                free(text);
                free(ids);
                free(shares);
            }
            check_entries(&table);
            free(table.keys);
            free(table.stamps);
            free(table.ids);
            free(table.weights);
        }
}

/* --- all of it -------------------------------------------------------------------------------- */

static void *drive(void *argument)
{
    Dice *dice = argument;
    read_texts(dice);
    run_dry(dice);
    learn_contexts(dice);
    plan_trees(dice);
    draw_tokens(dice);
    return NULL;
}

int main(int count, char **words)
{
    int threads = count > 2 ? atoi(words[2]) : 0;
    uint64_t seed = count > 1 ? strtoull(words[1], NULL, 0) : 0;
    Dice dice[MOST_THREADS];
    pthread_t running[MOST_THREADS];
    HOLD(threads > 0 && threads <= MOST_THREADS);
    for (int i = 0; i < threads; i++)
        dice[i] = (Dice){seed, 0xcbf29ce484222325u};
    for (int i = 1; i < threads; i++)
        HOLD(!pthread_create(&running[i], NULL, drive, &dice[i]));
    drive(&dice[0]);
    for (int i = 1; i < threads; i++) {
        pthread_join(running[i], NULL);
        HOLD(dice[i].hash == dice[0].hash);
    }
    printf("%016llx\n", (unsigned long long)dice[0].hash);
    return 0;
}
