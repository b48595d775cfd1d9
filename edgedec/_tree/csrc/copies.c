/* Chains copied on from where a text's end occurred before, and from behind a change. */
#include "suffixes.h"

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

static int chain(const Suffixes *self, const Way *way, int rank, int room, const Grown *out,
                 int count)
{
    int begin = count;
    for (int i = way->start; i >= 0 && i < self->count && count - begin < room; i++, count++) {
        if (is_among(self->ends, self->end_count, self->tokens[i]))
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

static Way way_of(const Match *match)
{
    return (Way){(int)match->end + 1, match->length, sure(match->length, 0)};
}

/* Which of GONE_ON a match says the same as; -1: none. */
static int confirmed(const Suffixes *self, const Match *match)
{
    for (int i = 0; i < WAYS_ON; i++)
        if (match->end + 1 == self->source + GONE_ON[i].step)
            return i;
    return -1;
}

/* Behind a change, places where the passage may go on, and matches from elsewhere. */
static int ways_behind(const Suffixes *self, const Match *found, int places, Way *ways)
{
    float first[WAYS_ON];
    int count = 0, which;
    for (int i = 0; i < WAYS_ON; i++)
        first[i] = GONE_ON[i].sure;
    for (int k = 0; k < places; k++)
        if ((which = confirmed(self, &found[k])) >= 0)
            first[which] = CONFIRMED;
    for (int i = 0; i < WAYS_ON; i++)
        count = put_way(ways, count, (Way){self->source + GONE_ON[i].step, BEHIND, first[i]});
    for (int k = 0; k < places; k++)
        if (confirmed(self, &found[k]) < 0)
            count = put_way(ways, count, way_of(&found[k]));
    return count;
}

int suffixes_copy(Suffixes *self, const Copying *how, const Grown *out)
{
    Match found[MAX_PLACES];
    Way ways[MAX_PLACES + WAYS_ON];
    int places = suffixes_places(self, found, how->branches), most = how->most > 0 ? how->most : 0;
    int count = 0, all = 0, side, room;
    keep_place(self, places ? found : NULL);
    while (places && found[places - 1].length < how->shortest)
        places--;
    if (self->lost)
        all = ways_behind(self, found, places, ways);
    else
        for (; all < places; all++)
            ways[all] = way_of(&found[all]);
    /* The first chain is the long one; each of the others gets a sixth. Where there are more chains
     * than nodes the last ones get nothing, never the first. */
    side = most / 6 > 1 ? most / 6 : 1;
    room = most - side * (all - 1);
    room = room > side ? room : side;
    for (int i = 0, rank = 0; i < all; i++) {
        int before = count;
        count = chain(self, &ways[i], rank, smaller(room, most - count), out, count);
        if (count > before)
            room = side, rank++;
    }
    self->told = self->count;
    return count;
}
