/* What is asked of a step's logits afterwards. */
#include <math.h>
#include <stdlib.h>

#include "model.h"

/* Top-k looks at so many stretches of the vocabulary at most, and is quick for so few. */
enum { STRETCHES = 1024, TOP_FEW = 64 };

int ed_session_lines(const EdSession *session)
{
    return session->lines;
}

size_t ed_session_line(const EdSession *session)
{
    return (size_t)session->model->spec.vocab * sizeof(float);
}

const float *ed_session_logits(const EdSession *session, int line)
{
    if (line < 0 || line >= session->lines)
        return NULL;
    return session->buffers.logits +
           (size_t)line * (size_t)ed_padded(session->model->spec.vocab, 16);
}

static EdLines lines_of(const EdSession *session)
{
    const EdModel *model = session->model;
    return (EdLines){.kernels = model->kernels,
                     .team = model->team,
                     .numbers = session->buffers.logits,
                     .lines = session->lines,
                     .count = model->spec.vocab,
                     .stride = ed_padded(model->spec.vocab, 16)};
}

static const float *line_of(const EdLines *lines, int line)
{
    return lines->numbers + (size_t)line * (size_t)lines->stride;
}

/* Fewer numbers than this are searched sooner than a second thread has woken up. */
enum { ALONE = 1 << 16 };

static int are_many(const EdLines *lines)
{
    return (int64_t)lines->lines * lines->count > ALONE;
}

/* The best of each part of each line, as ids [parts][lines]. */
typedef struct {
    const EdLines *lines;
    int parts;
    int32_t *ids;
} Parts;

/* A thread looks through the part whose logits it made (product.c), which lie in its own cache. */
static int first_of(const Parts *work, int part)
{
    int pairs = (work->lines->count + 31) / 32;
    return ed_least(32 * (int)((int64_t)pairs * part / work->parts), work->lines->count);
}

static void find_best(void *work, EdWorker *me)
{
    const Parts *all = work;
    const EdLines *lines = all->lines;
    while (ed_team_take(me, 1, all->parts * lines->lines))
        for (int i = me->next; i < me->end; i++) {
            int part = i / lines->lines, first = first_of(all, part);
            const float *x = line_of(lines, i % lines->lines) + first;
            all->ids[i] = first + lines->kernels->argmax(x, first_of(all, part + 1) - first);
        }
}

static void join_parts(const Parts *all, int32_t *best)
{
    int lines = all->lines->lines;
    for (int line = 0; line < lines; line++) {
        const float *x = line_of(all->lines, line);
        best[line] = all->ids[line];
        for (int part = 1; part < all->parts; part++) {
            int32_t id = all->ids[part * lines + line];
            if (x[id] > x[best[line]])
                best[line] = id;
        }
    }
}

void ed_session_argmax(EdSession *session, int32_t *best)
{
    EdLines lines = lines_of(session);
    Parts all = {.lines = &lines, .parts = ed_team_size(lines.team)};
    if (are_many(&lines) && lines.count >= 32 * all.parts)
        all.ids = malloc((size_t)(lines.lines * all.parts) * sizeof *all.ids);
    if (!all.ids) {
        ed_team_alone(find_best, &(Parts){&lines, 1, best});
        return;
    }
    ed_team_run(lines.team, find_best, &all);
    join_parts(&all, best);
    free(all.ids);
}

/* Put x before all that are smaller; of equals the earlier id stays in front. */
static int insert(int32_t *ids, float *values, int have, int k, int id, float x)
{
    int at = have < k ? have : k - 1;
    for (; at > 0 && values[at - 1] < x; at--) {
        ids[at] = ids[at - 1];
        values[at] = values[at - 1];
    }
    ids[at] = id;
    values[at] = x;
    return have < k ? have + 1 : k;
}

/* The k-th largest of so many numbers; the smallest float if there are fewer. */
static float kth_largest(const float *x, int count, int k)
{
    float best[TOP_FEW];
    int have = 0;
    for (int i = 0; i < count; i++) {
        int at = have < k ? have++ : k;
        if (at == k && !(x[i] > best[k - 1]))
            continue;
        for (at = at == k ? k - 1 : at; at > 0 && best[at - 1] < x[i]; at--)
            best[at] = best[at - 1];
        best[at] = x[i];
    }
    return have < k ? -INFINITY : best[k - 1];
}

typedef struct {
    const EdLines *lines;
    int32_t *ids;
    float *values;
    int k;
} Search;

/* The largest of each stretch first: no number below the k-th of these is among the k largest, so
 * hardly more than k stretches are looked through. */
static void top_of(const Search *search, int line)
{
    const EdKernels *kernels = search->lines->kernels;
    const float *x = line_of(search->lines, line);
    int k = search->k, count = search->lines->count, have = 0;
    int stretch = ed_padded(count / STRETCHES + 1, 64), stretches = (count - 1) / stretch + 1;
    int32_t *ids = search->ids + line * k;
    float *values = search->values + line * k, largest[STRETCHES], least;
    for (int i = 0; i < stretches; i++)
        largest[i] = kernels->largest(x + i * stretch, ed_least(stretch, count - i * stretch));
    least = k <= TOP_FEW ? kth_largest(largest, stretches, k) : -INFINITY;
    for (int i = 0; i < stretches; i++) {
        if (largest[i] < least || (have == k && !(largest[i] > values[k - 1])))
            continue;
        for (int j = i * stretch; j < ed_least((i + 1) * stretch, count); j++)
            if (!(x[j] < least) && (have < k || x[j] > values[k - 1]))
                have = insert(ids, values, have, k, j, x[j]);
    }
}

static void find_top(void *work, EdWorker *me)
{
    Search *search = work;
    while (ed_team_take(me, 1, search->lines->lines))
        for (int i = me->next; i < me->end; i++)
            top_of(search, i);
}

void ed_lines_topk(const EdLines *lines, int k, int32_t *ids, float *values)
{
    Search search = {lines, ids, values, k};
    if (are_many(lines))
        ed_team_run(lines->team, find_top, &search);
    else
        ed_team_alone(find_top, &search);
}

void ed_session_topk(EdSession *session, int k, int32_t *ids, float *values)
{
    EdLines lines = lines_of(session);
    ed_lines_topk(&lines, k, ids, values);
}
