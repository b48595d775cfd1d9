/* One step: the phases of every layer, run by all threads side by side.
 *
 * Each phase ends when all its pieces are done (team.h); what a phase writes, the next one reads.
 */
#include <string.h>

#include "model.h"

static EdView own_view(const EdRun *run, int layer)
{
    int all = run->model->spec.encoder, trunk = all ? run->rows : run->input->trunk;
    return (EdView){
        .spec = &run->model->layers[layer].own,
        .store = &run->session->stores.of[layer],
        .sights = all ? NULL : run->buffers->sight,
        .positions = run->session->positions,
        .whole = {.prefix = trunk},
        .common = trunk,
        .living = all ? 0 : run->input->living,
        .reach = run->reach,
    };
}

static EdView cross_view(const EdRun *run, int layer)
{
    int rows = run->session->source->rows;
    return (EdView){
        .spec = &run->model->layers[layer].cross,
        .store = &run->session->source->stores.of[layer],
        .whole = {.prefix = rows},
        .common = rows,
        .reach = rows,
    };
}

/* Rows on their way into the stack's matrices; few of them enter in the phase that reads them. */
static void enter(EdProgram *p, EdWorker *me, const EdEntry *entry)
{
    p->entry = *entry;
    if (ed_are_few(&p->run, entry->rows))
        ed_settle(p, me);
    else
        ed_enter(p, me, entry);
}

/* The products of what entered. */
static EdProducts products_of(const EdProgram *p, EdFinish finish)
{
    EdProducts products = ed_product_of(&p->run, 0, finish);
    products.rows = p->entry.rows;
    if (ed_are_few(&p->run, products.rows)) {
        products.from = NULL;
        products.entry = &p->entry;
    }
    return products;
}

static void attention(EdProgram *p, EdWorker *me, const EdView *view, EdHeads what, EdFinish finish,
                      float *out)
{
    EdRun *run = &p->run;
    const EdAttention *la = view->spec;
    EdProducts first = products_of(p, ED_PUT), last = ed_product_of(run, 1, finish);
    ed_into(&first, run->model, &la->q, la->q_bias, NULL, 0);
    ed_into(&last, run->model, &la->o, la->o_bias, out, run->session->widths.dim);
    if (what == ED_ALL_HEADS) {
        ed_into(&first, run->model, &la->k, la->k_bias, NULL, 0);
        ed_into(&first, run->model, &la->v, la->v_bias, NULL, 0);
    }
    ed_heads(run, me, view, &first, what);
    ed_attend(run, me, view);
    ed_products(run, me, &last);
}

static void mlp(EdProgram *p, EdWorker *me, int layer, EdFinish finish, float *out)
{
    EdRun *run = &p->run;
    const EdLayer *la = &run->model->layers[layer];
    const EdWidths *w = &run->session->widths;
    EdProducts wide = products_of(p, la->gate.weight ? ED_GATE : ED_ACTIVATE);
    EdProducts down = ed_product_of(run, 1, finish);
    wide.activation = la->activation;
    wide.next = &la->down;
    wide.to = run->buffers->packed[1];
    if (la->gate.weight)
        ed_into(&wide, run->model, &la->gate, la->gate_bias, NULL, 0);
    ed_into(&wide, run->model, &la->up, la->up_bias, NULL, 0);
    ed_into(&down, run->model, &la->down, la->down_bias, out, w->dim);
    ed_products(run, me, &wide);
    ed_products(run, me, &down);
}

static void enter_all(EdProgram *p, EdWorker *me, const EdNorm *norm, const EdMatrix *like)
{
    enter(p, me, &(EdEntry){.rows = p->run.rows, .norm = norm, .like = like});
}

/* What norms a part of a layer has before or after it, and what it leaves pending. */
static void leave(EdProgram *p, const EdLayer *la, const EdNorm *norm, const EdNorm *post_norm)
{
    if (la->norm_order == ED_POST) {
        p->pending = ED_NORM_IN_PLACE;
        p->pending_norm = norm;
    }
    if (la->norm_order == ED_SANDWICH) {
        p->pending = ED_NORM_AND_ADD;
        p->pending_norm = post_norm;
    }
}

/* In parallel order the parts read x as it is, and y gathers what the attentions give. */
static void run_layer(EdProgram *p, EdWorker *me, int layer)
{
    const EdLayer *la = &p->run.model->layers[layer];
    float *x = p->run.buffers->x, *y = p->run.buffers->y;
    int sandwich = la->norm_order == ED_SANDWICH, post = la->norm_order == ED_POST;
    int parallel = la->norm_order == ED_PARALLEL;
    EdFinish finish = sandwich ? ED_PUT : ED_ADD;
    EdView own = own_view(&p->run, layer);
    enter_all(p, me, post ? NULL : &la->attention_norm, &la->own.q);
    attention(p, me, &own, ED_ALL_HEADS, parallel ? ED_PUT : finish, sandwich || parallel ? y : x);
    leave(p, la, &la->attention_norm, &la->attention_post_norm);
    if (la->cross.q.weight) {
        EdView cross = cross_view(&p->run, layer);
        enter_all(p, me, post ? NULL : &la->cross_norm, &la->cross.q);
        attention(p, me, &cross, ED_QUERIES_ONLY, finish, sandwich || parallel ? y : x);
        leave(p, la, &la->cross_norm, &la->cross_post_norm);
    }
    enter_all(p, me, post ? NULL : &la->mlp_norm, &la->up);
    p->pending = parallel ? ED_ADD_Y : ED_NOTHING;
    mlp(p, me, layer, finish, sandwich ? y : x);
    leave(p, la, &la->mlp_norm, &la->mlp_post_norm);
}

/* The stream as it stands between layers goes to the caller, if he wants it. */
static void show(EdProgram *p, EdWorker *me, int layer)
{
    const EdRun *run = &p->run;
    const EdStep *step = run->input;
    size_t size = (size_t)run->rows * (size_t)run->model->spec.dim;
    int place = 0;
    while (place < step->hidden_count && step->hidden_layers[place] != layer)
        place++;
    if (place == step->hidden_count)
        return;
    ed_settle(p, me);
    while (ed_team_take(me, 1, 1))
        memcpy(step->hidden + (size_t)place * size, run->buffers->x, size * sizeof(float));
}

static void head(EdProgram *p, EdWorker *me)
{
    EdRun *run = &p->run;
    const EdModelSpec *spec = &run->model->spec;
    EdProducts logits;
    EdEntry entry = {.rows = run->input->head_count,
                     .which = run->input->head_rows,
                     .norm = spec->final_norm.kind ? &spec->final_norm : NULL,
                     .like = &spec->head};
    enter(p, me, &entry);
    logits = products_of(p, ED_PUT);
    logits.scale = spec->head_scale;
    logits.softcap = spec->head_softcap;
    ed_into(&logits, run->model, &spec->head, spec->head_bias, run->buffers->logits,
            ed_padded(spec->vocab, 16));
    ed_products(run, me, &logits);
}

/* Each thread has a program of its own; all come to the same decisions. */
static void run_step(void *work, EdWorker *me)
{
    EdProgram p = {.run = *(const EdRun *)work};
    const EdStep *step = p.run.input;
    ed_embed(&p.run, me, p.run.model->spec.ropes > 0);
    for (int i = 0; i < step->range_count; i++) {
        for (int layer = step->ranges[2 * i]; layer < step->ranges[2 * i + 1]; layer++) {
            show(&p, me, layer);
            run_layer(&p, me, layer);
        }
        if (i + 1 == step->range_count || step->ranges[2 * i + 1] != step->ranges[2 * i + 2])
            show(&p, me, step->ranges[2 * i + 1]);
    }
    if (step->head_count)
        head(&p, me);
}

/* --- what comes before ---------------------------------------------------------------------- */

static int check_sizes(const EdSession *session, const EdStep *step, char *error)
{
    const EdModelSpec *spec = &session->model->spec;
    int last = -1;
    if (step->rows < 1 || step->trunk < 0 || step->living < step->rows ||
        step->living > session->capacity - step->trunk)
        return ed_fail(error, "%d rows, %d living and %d of trunk do not fit into %d", step->rows,
                       step->living, step->trunk, session->capacity);
    for (int i = 0; i < step->range_count; i++) {
        int from = step->ranges[2 * i], to = step->ranges[2 * i + 1];
        if (from < (last < 0 ? 0 : last) || to <= from || to > spec->layers)
            return ed_fail(error, "layers %d to %d of %d", from, to, spec->layers);
        last = to;
    }
    if (step->range_count < 1 || (step->ranges[0] > 0 && !step->vectors))
        return ed_fail(error, "rows that begin behind layer 0 must be vectors");
    for (int i = 0; i < step->head_count; i++)
        if (step->head_rows[i] < 0 || step->head_rows[i] >= step->rows)
            return ed_fail(error, "logits of row %d of %d", step->head_rows[i], step->rows);
    return 0;
}

static int check_kind(const EdSession *session, const EdStep *step, char *error)
{
    if (session->model->crosses && !session->source)
        return ed_fail(error, "the model reads a source, and has none");
    if (!session->model->spec.encoder)
        return 0;
    if (step->trunk || step->living != step->rows || step->visible || step->head_count)
        return ed_fail(error, "a step of an encoder is a whole source, without logits");
    return 0;
}

static int check_rows(const EdSession *session, const EdStep *step, char *error)
{
    const EdModelSpec *spec = &session->model->spec;
    if (!step->vectors && !step->tokens)
        return ed_fail(error, "rows are tokens or vectors");
    for (int i = 0; i < step->rows; i++) {
        if (step->handles[i] < 0 || step->handles[i] >= step->living ||
            (i && step->handles[i] <= step->handles[i - 1]))
            return ed_fail(error, "row %d has handle %d of %d", i, step->handles[i], step->living);
        if (step->positions[i] < 0 || step->positions[i] >= spec->context)
            return ed_fail(error, "row %d has position %d", i, step->positions[i]);
        if (!step->vectors &&
            (step->tokens[i] < 0 || step->tokens[i] >= spec->vocab + step->learned_count))
            return ed_fail(error, "row %d has token %d", i, step->tokens[i]);
        if (step->visible &&
            !step->visible[(size_t)i * (size_t)step->living + (size_t)step->handles[i]])
            return ed_fail(error, "row %d does not see itself", i);
    }
    return 0;
}

/* The part of a path that lies in order, and the rest. */
static EdSight sight_of(const EdStep *step, int row, int32_t *extras)
{
    const uint8_t *sees;
    EdSight sight = {.prefix = step->trunk, .extras = extras};
    int handle = 0;
    if (!step->visible) {
        sight.prefix += step->handles[row] + 1;
        return sight;
    }
    sees = step->visible + (size_t)row * (size_t)step->living;
    while (handle < step->living && sees[handle])
        handle++;
    sight.prefix += handle;
    for (; handle < step->living; handle++)
        if (sees[handle])
            extras[sight.extra_count++] = step->trunk + handle;
    return sight;
}

int ed_session_step(EdSession *session, const EdStep *step, char *error)
{
    EdBuffers *b = &session->buffers;
    EdRun run = {.session = session,
                 .model = session->model,
                 .kernels = session->model->kernels,
                 .input = step,
                 .buffers = b,
                 .rows = step->rows};
    if (check_sizes(session, step, error) || check_kind(session, step, error) ||
        check_rows(session, step, error) || ed_buffers_reserve(session, step, error))
        return -1;
    for (int row = 0; row < step->rows; row++) {
        EdSight *sight = &b->sight[row];
        *sight = sight_of(step, row,
                          step->visible ? b->extras + (size_t)row * (size_t)step->living : NULL);
        if (sight->prefix + sight->extra_count > run.reach)
            run.reach = sight->prefix + sight->extra_count;
        session->positions[step->trunk + step->handles[row]] = step->positions[row];
    }
    session->lines = step->head_count;
    ed_team_run(session->model->team, run_step, &run);
    return 0;
}
