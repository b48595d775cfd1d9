/* Planner as a Python type. */
#include "binding.h"

/* What a draft holds, taken out of its Python object. */
typedef struct {
    Py_buffer views[4];
    int views_held;
    int32_t *riders;
    double *gains;
} Held;

/* Drafters give the same few objects again and again, with other numbers in their arrays. Of those
 * that were given of late it is known where these lie, as long as they are held. */
enum { OF_LATE = 128 };

typedef struct {
    PyObject *draft;
    Proposal given;
    Held held;
} Known;

typedef struct {
    PyObject_HEAD
    Planner planner;
    Known *known; /* [OF_LATE], by address */
    int planning; /* how many calls of `plan` are under way: a draft's own code may make one */
} PlannerObject;

static PyObject *planner_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"sources", "seconds", NULL};
    PlannerObject *self;
    Planner *planner;
    int sources;
    double seconds;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "id", names, &sources, &seconds))
        return NULL;
    if (sources < 0 || sources > MAX_SOURCES || !(seconds > 0))
        return PyErr_Format(PyExc_ValueError, "a planner takes 0 to %d sources and a time above 0",
                            MAX_SOURCES);
    self = (PlannerObject *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    planner = &self->planner;
    planner->sources = sources;
    planner->rate_tokens = 1;
    planner->rate_seconds = seconds;
    planner->nodes[0].source = -1;
    planner->hits = calloc(CELLS, sizeof(float));
    planner->trials = calloc(CELLS, sizeof(float));
    self->known = calloc(OF_LATE, sizeof *self->known);
    if (planner->hits && planner->trials && self->known)
        return (PyObject *)self;
    Py_DECREF(self);
    return PyErr_NoMemory();
}

static void give_back(Held *held, int count)
{
    for (int i = 0; i < count; i++) {
        release(held[i].views, held[i].views_held);
        free(held[i].riders);
        free(held[i].gains);
    }
}

static void forget(Known *known)
{
    PyObject *draft = known->draft;
    Held held = known->held;
    *known = (Known){0};
    give_back(&held, 1);
    Py_XDECREF(draft);
}

static void planner_free(PlannerObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    for (int i = 0; self->known && i < OF_LATE; i++)
        forget(&self->known[i]);
    free(self->known);
    free(self->planner.hits);
    free(self->planner.trials);
    type->tp_free(self);
    Py_DECREF(type);
}

static int take_array(PyObject *draft, const char *name, Held *held, int count)
{
    PyObject *array = PyObject_GetAttrString(draft, name);
    Py_buffer *view = &held->views[held->views_held];
    int failed = !array || PyObject_GetBuffer(array, view, PyBUF_SIMPLE);
    Py_XDECREF(array);
    if (failed)
        return -1;
    held->views_held++;
    if (check_numbers(view, 1, 4))
        return -1;
    if (count >= 0 && length(view) != count) {
        PyErr_Format(PyExc_ValueError, "a draft of %d tokens has %d entries in '%s'", count,
                     length(view), name);
        return -1;
    }
    return 0;
}

static int read_riders(PyObject *riders, PyObject *gains, Held *held, Proposal *out)
{
    Py_ssize_t count = PySequence_Size(riders), most = count < 0 ? -1 : PySequence_Size(gains);
    if (most < 0)
        return -1;
    if (count != (Py_ssize_t)out->count + 1) {
        PyErr_SetString(PyExc_ValueError, "riders must name the root's and those of each node");
        return -1;
    }
    most = most < MAX_ITEMS ? most : MAX_ITEMS;
    held->riders = calloc((size_t)count, sizeof *held->riders);
    held->gains = calloc((size_t)most + 1, sizeof *held->gains);
    if (!held->riders || !held->gains) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *entry = PySequence_GetItem(riders, i);
        Py_ssize_t below = entry ? PyObject_Length(entry) : -1;
        Py_XDECREF(entry);
        if (below < 0)
            return -1;
        held->riders[i] = (int32_t)(below < MAX_ITEMS ? below : MAX_ITEMS);
    }
    for (Py_ssize_t i = 0; i < most; i++) {
        PyObject *gain = PySequence_GetItem(gains, i);
        held->gains[i] = gain ? PyFloat_AsDouble(gain) : -1;
        Py_XDECREF(gain);
        if (held->gains[i] == -1 && PyErr_Occurred())
            return -1;
    }
    out->gain_count = (int)most;
    out->riders = held->riders;
    out->gains = held->gains;
    return 0;
}

static int read_lanes(PyObject *lanes, Proposal *out)
{
    long count = PyLong_AsLong(lanes);
    if (count == -1 && PyErr_Occurred())
        return -1;
    if (count < 1 || count > MAX_ITEMS) {
        PyErr_Format(PyExc_ValueError, "riders in %ld lanes", count);
        return -1;
    }
    out->lanes = (int)count;
    return 0;
}

static int take_riders(PyObject *draft, Held *held, Proposal *out)
{
    PyObject *riders = PyObject_GetAttrString(draft, "riders"), *gains = NULL, *lanes = NULL;
    int failed = !riders;
    if (riders && riders != Py_None) {
        gains = PyObject_GetAttrString(draft, "gains");
        lanes = PyObject_GetAttrString(draft, "lanes");
        failed = !gains || !lanes || read_lanes(lanes, out) ||
                 read_riders(riders, gains, held, out);
    }
    Py_XDECREF(riders);
    Py_XDECREF(gains);
    Py_XDECREF(lanes);
    return failed ? -1 : 0;
}

static int take_draft(PyObject *draft, Held *held, Proposal *out)
{
    if (draft == Py_None)
        return 0;
    if (take_array(draft, "tokens", held, -1))
        return -1;
    out->count = length(&held->views[0]);
    if (take_array(draft, "parents", held, out->count) ||
        take_array(draft, "score", held, out->count) || take_array(draft, "rank", held, out->count))
        return -1;
    out->tokens = held->views[0].buf;
    out->parents = held->views[1].buf;
    out->score = held->views[2].buf;
    out->rank = held->views[3].buf;
    return take_riders(draft, held, out);
}

static int is_given(PyObject *drafts, const PyObject *draft)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(drafts); i++)
        if (PyTuple_GET_ITEM(drafts, i) == draft)
            return 1;
    return 0;
}

/* Draft number i. One without riders, whose lists may change, is remembered, unless its place is
 * taken by another of the same turn. */
static int take_known(PlannerObject *self, PyObject *drafts, int i, Held *held, Proposal *out)
{
    PyObject *draft = PyTuple_GET_ITEM(drafts, i);
    Known *known = &self->known[(uintptr_t)draft / 16 % OF_LATE];
    if (draft == Py_None)
        return 0;
    if (known->draft != draft) {
        if (take_draft(draft, held, out))
            return -1;
        if (held->riders || self->planning > 1 || is_given(drafts, known->draft))
            return 0;
        forget(known);
        *known = (Known){Py_NewRef(draft), *out, *held};
        *held = (Held){0};
    }
    *out = known->given;
    return 0;
}

/* The ordered nodes as arrays: tokens, parents, the probability given the parent, ranks. */
static void write_out(const Planner *planner, int count, const Py_buffer *v)
{
    int32_t *tokens = v[1].buf, *parents = v[2].buf, *rank = v[4].buf;
    float *score = v[3].buf;
    for (int i = 0; i < count; i++) {
        const Node *node = &planner->nodes[planner->order[i]];
        tokens[i] = node->token;
        parents[i] = node->parent ? planner->nodes[node->parent].place : -1;
        score[i] = node->p;
        rank[i] = node->rank;
    }
}

static PyObject *planner_plan(PlannerObject *self, PyObject *args)
{
    Planner *planner = &self->planner;
    PyObject *drafts, *kept_drafts, *found = NULL;
    Py_buffer v[6]; /* times; ends; tokens, parents, score, rank to write */
    Held held[MAX_SOURCES] = {0};
    Proposal given[MAX_SOURCES] = {0};
    Limits limits;
    int sources, bad;
    if (!PyArg_ParseTuple(args, "O!iiiiy*y*w*w*w*w*", &PyList_Type, &drafts, &limits.pending,
                          &limits.budget, &limits.depth, &limits.vocab, &v[0], &v[1], &v[2], &v[3],
                          &v[4], &v[5]))
        return NULL;
    kept_drafts = PyList_AsTuple(drafts);
    sources = kept_drafts ? (int)PyTuple_GET_SIZE(kept_drafts) : 0;
    bad = !kept_drafts || check_numbers(v, 1, 8) || check_numbers(v + 1, 5, 4);
    limits.times = v[0].buf;
    limits.times_count = (int)(v[0].len / 8);
    limits.ends = v[1].buf;
    limits.end_count = (int)(v[1].len / 4);
    if (limits.budget > room_in(v + 2, 4))
        limits.budget = room_in(v + 2, 4);
    if (!bad && (sources != planner->sources || limits.times_count < 2 || limits.pending < 1))
        bad = !PyErr_Format(PyExc_ValueError, "%d drafts for a planner of %d sources", sources,
                            planner->sources);
    self->planning++;
    for (int i = 0; !bad && i < sources; i++)
        bad = take_known(self, kept_drafts, i, &held[i], &given[i]);
    if (!bad) {
        /* From here on no Python code runs that could use the planner as well. */
        int wrong = planner_merge(planner, given, &limits);
        if (wrong) {
            PyErr_Format(PyExc_ValueError, "draft %d is no tree of tokens", wrong - 1);
        } else {
            int count = planner_choose(planner, given, &limits);
            write_out(planner, count, v + 1);
            found = Py_BuildValue("(ii)", planner->kept, count);
        }
    }
    self->planning--;
    give_back(held, MAX_SOURCES);
    release(v, 6);
    Py_XDECREF(kept_drafts);
    return found;
}

static PyObject *planner_riders(PlannerObject *self, PyObject *args)
{
    const Planner *planner = &self->planner;
    PyObject *list = PyList_New(0);
    int chosen;
    if (!PyArg_ParseTuple(args, "i", &chosen))
        Py_CLEAR(list);
    for (int i = -1; list && i < planner->ordered && (i < 0 || i < chosen); i++) {
        const Node *node = &planner->nodes[i < 0 ? 0 : planner->order[i]];
        float share = node->claims > 0 ? node->riding / node->claims : 0;
        PyObject *entry = Py_BuildValue("(iiid)", node->source, node->origin, node->riders_kept,
                                        (double)share);
        if (!entry || PyList_Append(list, entry))
            Py_CLEAR(list);
        Py_XDECREF(entry);
    }
    return list;
}

static PyObject *planner_learned(PlannerObject *self, PyObject *args)
{
    PyObject *emitted;
    Py_buffer credits;
    int32_t tokens[MAX_NODES + 1];
    Py_ssize_t count;
    int chosen, bad;
    unsigned int cheap = UINT32_MAX;
    if (!PyArg_ParseTuple(args, "Oiw*|I", &emitted, &chosen, &credits, &cheap))
        return NULL;
    count = PySequence_Size(emitted);
    bad = count < 0 || check_numbers(&credits, 1, 4);
    /* No path is longer than that. */
    count = count < MAX_NODES + 1 ? count : MAX_NODES + 1;
    for (Py_ssize_t i = 0; !bad && i < count; i++) {
        PyObject *token = PySequence_GetItem(emitted, i);
        bad = !token || token_of(token, &tokens[i]);
        Py_XDECREF(token);
    }
    if (!bad && length(&credits) < 2 * self->planner.sources) {
        PyErr_SetString(PyExc_ValueError, "learn: credits need two numbers for each source");
        bad = 1;
    }
    if (!bad)
        planner_learn(&self->planner, tokens, (int)count, chosen, cheap, credits.buf);
    PyBuffer_Release(&credits);
    if (bad)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *planner_paced(PlannerObject *self, PyObject *args)
{
    double tokens, seconds;
    if (!PyArg_ParseTuple(args, "dd", &tokens, &seconds))
        return NULL;
    planner_pace(&self->planner, tokens, seconds);
    Py_RETURN_NONE;
}

static PyObject *planner_rate(PlannerObject *self, void *unused)
{
    (void)unused;
    return PyFloat_FromDouble(self->planner.rate_tokens / self->planner.rate_seconds);
}

static PyObject *planner_forgotten(PlannerObject *self, PyObject *unused)
{
    (void)unused;
    for (int i = 0; !self->planning && i < OF_LATE; i++)
        forget(&self->known[i]);
    Py_RETURN_NONE;
}

static PyMethodDef planner_methods[] = {
    {"plan", (PyCFunction)planner_plan, METH_VARARGS,
     "plan(drafts, pending, budget, depth, vocab, times, ends, tokens, parents, score, rank):\n"
     "(how many nodes pay, how many were written)"},
    {"riders", (PyCFunction)planner_riders, METH_VARARGS,
     "riders(chosen): (source, entry, kept, share) of root and nodes"},
    {"learn", (PyCFunction)planner_learned, METH_VARARGS, "learn(emitted, chosen, credits)"},
    {"pace", (PyCFunction)planner_paced, METH_VARARGS, "pace(tokens, seconds)"},
    {"forget", (PyCFunction)planner_forgotten, METH_NOARGS, "forget(): where drafts lie"},
    {NULL, NULL, 0, NULL},
};

static PyObject *planner_value(PlannerObject *self, void *unused)
{
    (void)unused;
    return PyFloat_FromDouble(self->planner.value);
}

static PyGetSetDef planner_values[] = {
    {"value", (getter)planner_value, NULL, "What the chosen nodes and riders are worth.", NULL},
    {"rate", (getter)planner_rate, NULL, "Tokens per second of late.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot planner_slots[] = {
    {Py_tp_doc, "Planner(sources, seconds)"},
    {Py_tp_new, planner_new},
    {Py_tp_dealloc, planner_free},
    {Py_tp_methods, planner_methods},
    {Py_tp_getset, planner_values},
    {0, NULL},
};

PyType_Spec planner_type = {"edgedec._tree._fast.Planner", sizeof(PlannerObject), 0,
                            Py_TPFLAGS_DEFAULT, planner_slots};
