/* What is asked of a step's logits afterwards. */
#include <math.h>

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

typedef struct {
    EdSession *session;
    int32_t *ids;
    float *values;
    int k;
} Search;

/* Fewer logits than this are searched sooner than a second thread has woken up. */
enum { ALONE = 1 << 16 };

static int alone(const EdSession *session)
{
    return session->lines * session->model->spec.vocab <= ALONE;
}

static void best_of(const Search *search, int line)
{
    const EdModel *model = search->session->model;
    search->ids[line] =
        model->kernels->argmax(ed_session_logits(search->session, line), model->spec.vocab);
}

static void find_best(void *work, EdWorker *me)
{
    Search *search = work;
    while (ed_team_take(me, 1, search->session->lines))
        for (int i = me->next; i < me->end; i++)
            best_of(search, i);
}

void ed_session_argmax(EdSession *session, int32_t *best)
{
    Search search = {.session = session, .ids = best};
    for (int i = 0; alone(session) && i < session->lines; i++)
        best_of(&search, i);
    if (!alone(session))
        ed_team_run(session->model->team, find_best, &search);
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

/* The largest of each stretch first: no number below the k-th of these is among the k largest, so
 * hardly more than k stretches are looked through. */
static void top_of(const Search *search, int line)
{
    const EdModel *model = search->session->model;
    const float *x = ed_session_logits(search->session, line);
    int k = search->k, vocab = model->spec.vocab, have = 0;
    int stretch = ed_padded(vocab / STRETCHES + 1, 64), stretches = (vocab - 1) / stretch + 1;
    int32_t *ids = search->ids + line * k;
    float *values = search->values + line * k, largest[STRETCHES], least;
    for (int i = 0; i < stretches; i++)
        largest[i] = model->kernels->largest(x + i * stretch,
                                             ed_least(stretch, vocab - i * stretch));
    least = k <= TOP_FEW ? kth_largest(largest, stretches, k) : -INFINITY;
    for (int i = 0; i < stretches; i++) {
        if (largest[i] < least || (have == k && !(largest[i] > values[k - 1])))
            continue;
        for (int j = i * stretch; j < ed_least((i + 1) * stretch, vocab); j++)
            if (!(x[j] < least) && (have < k || x[j] > values[k - 1]))
                have = insert(ids, values, have, k, j, x[j]);
    }
}

static void find_top(void *work, EdWorker *me)
{
    Search *search = work;
    while (ed_team_take(me, 1, search->session->lines))
        for (int i = me->next; i < me->end; i++)
            top_of(search, i);
}

void ed_session_topk(EdSession *session, int k, int32_t *ids, float *values)
{
    Search search = {session, ids, values, k};
    for (int i = 0; alone(session) && i < session->lines; i++)
        top_of(&search, i);
    if (!alone(session))
        ed_team_run(session->model->team, find_top, &search);
}
