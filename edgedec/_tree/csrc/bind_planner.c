/* Planner as a Python type. */
#include "binding.h"

typedef struct {
    PyObject_HEAD
    Planner planner;
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
    planner->hits = calloc(CELLS, sizeof(float));
    planner->trials = calloc(CELLS, sizeof(float));
    if (planner->hits && planner->trials)
        return (PyObject *)self;
    Py_DECREF(self);
    return PyErr_NoMemory();
}

static void planner_free(PlannerObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    free(self->planner.hits);
    free(self->planner.trials);
    type->tp_free(self);
    Py_DECREF(type);
}

/* What a draft holds, taken out of its Python object. */
typedef struct {
    Py_buffer views[4];
    int views_held;
    int32_t *riders;
    double *gains;
} Held;

static void give_back(Held *held, int count)
{
    for (int i = 0; i < count; i++) {
        release(held[i].views, held[i].views_held);
        free(held[i].riders);
        free(held[i].gains);
    }
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
    if (count >= 0 && length(view) != count) {
        PyErr_Format(PyExc_ValueError, "a draft of %d tokens has %d entries in '%s'", count,
                     length(view), name);
        return -1;
    }
    return 0;
}

static int take_riders(PyObject *draft, Held *held, Proposal *out)
{
    PyObject *riders = PyObject_GetAttrString(draft, "riders"), *gains = NULL;
    PyObject *fast = NULL, *fast_gains = NULL;
    if (riders == Py_None) {
        Py_DECREF(riders);
        return 0;
    }
    gains = PyObject_GetAttrString(draft, "gains");
    fast = riders ? PySequence_Fast(riders, "riders must be lists") : NULL;
    fast_gains = gains ? PySequence_Fast(gains, "gains must be a list") : NULL;
    if (fast && fast_gains && PySequence_Fast_GET_SIZE(fast) == out->count + 1) {
        out->gain_count = (int)PySequence_Fast_GET_SIZE(fast_gains);
        held->riders = calloc((size_t)out->count + 1, sizeof *held->riders);
        held->gains = calloc((size_t)out->gain_count + 1, sizeof *held->gains);
        for (int i = 0; held->riders && i <= out->count; i++)
            held->riders[i] = (int32_t)PyObject_Length(PySequence_Fast_GET_ITEM(fast, i));
        for (int i = 0; held->gains && i < out->gain_count; i++)
            held->gains[i] = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(fast_gains, i));
        out->riders = held->riders;
        out->gains = held->gains;
    } else if (fast && fast_gains) {
        PyErr_SetString(PyExc_ValueError, "riders must name the root's and those of each node");
    }
    Py_XDECREF(fast);
    Py_XDECREF(fast_gains);
    Py_XDECREF(riders);
    Py_XDECREF(gains);
    return PyErr_Occurred() ? -1 : 0;
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
    PyObject *drafts, *found = NULL;
    Py_buffer v[5]; /* times; tokens, parents, score, rank to write */
    Held held[MAX_SOURCES] = {0};
    Proposal given[MAX_SOURCES] = {0};
    Limits limits;
    int sources, bad = 0, room;
    if (!PyArg_ParseTuple(args, "O!iiiiy*w*w*w*w*", &PyList_Type, &drafts, &limits.pending,
                          &limits.budget, &limits.depth, &limits.vocab, &v[0], &v[1], &v[2], &v[3],
                          &v[4]))
        return NULL;
    sources = (int)PyList_GET_SIZE(drafts);
    limits.times = v[0].buf;
    limits.times_count = (int)(v[0].len / 8);
    room = length(&v[1]);
    for (int i = 2; i < 5; i++)
        room = length(&v[i]) < room ? length(&v[i]) : room;
    if (limits.budget > room)
        limits.budget = room;
    if (sources != planner->sources || limits.times_count < 2 || limits.pending < 1)
        bad = !PyErr_Format(PyExc_ValueError, "%d drafts for a planner of %d sources", sources,
                            planner->sources);
    for (int i = 0; !bad && i < sources; i++)
        bad = take_draft(PyList_GET_ITEM(drafts, i), &held[i], &given[i]);
    if (!bad) {
        int wrong = planner_merge(planner, given, &limits);
        if (wrong) {
            PyErr_Format(PyExc_ValueError, "draft %d is no tree of tokens", wrong - 1);
        } else {
            int count = planner_choose(planner, given, &limits);
            write_out(planner, count, v);
            found = Py_BuildValue("(ii)", planner->kept, count);
        }
    }
    give_back(held, MAX_SOURCES);
    release(v, 5);
    return found;
}

static PyObject *planner_riders(PlannerObject *self, PyObject *args)
{
    const Planner *planner = &self->planner;
    PyObject *list = PyList_New(0);
    int chosen;
    if (!PyArg_ParseTuple(args, "i", &chosen))
        Py_CLEAR(list);
    for (int i = -1; list && i < chosen && i < planner->count; i++) {
        const Node *node = &planner->nodes[i < 0 ? 0 : planner->order[i]];
        PyObject *entry = Py_BuildValue("(iii)", node->source, node->origin, node->riders_kept);
        if (!entry || PyList_Append(list, entry))
            Py_CLEAR(list);
        Py_XDECREF(entry);
    }
    return list;
}

static PyObject *planner_learned(PlannerObject *self, PyObject *args)
{
    PyObject *emitted, *fast;
    Py_buffer credits;
    int32_t tokens[MAX_NODES + 1];
    int chosen, count;
    if (!PyArg_ParseTuple(args, "Oiw*", &emitted, &chosen, &credits))
        return NULL;
    fast = PySequence_Fast(emitted, "emitted must be a list of tokens");
    count = fast ? (int)PySequence_Fast_GET_SIZE(fast) : 0;
    if (count > MAX_NODES + 1)
        count = MAX_NODES + 1;
    for (int i = 0; i < count; i++)
        tokens[i] = (int32_t)PyLong_AsLong(PySequence_Fast_GET_ITEM(fast, i));
    if (!PyErr_Occurred() && length(&credits) >= 2 * self->planner.sources)
        planner_learn(&self->planner, tokens, count, chosen, credits.buf);
    else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "learn: credits need two numbers for each source");
    Py_XDECREF(fast);
    PyBuffer_Release(&credits);
    if (PyErr_Occurred())
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

static PyMethodDef planner_methods[] = {
    {"plan", (PyCFunction)planner_plan, METH_VARARGS,
     "plan(drafts, pending, budget, depth, vocab, times, tokens, parents, score, rank):\n"
     "(how many nodes pay, how many were written)"},
    {"riders", (PyCFunction)planner_riders, METH_VARARGS,
     "riders(chosen): (source, entry, kept) of the root and the nodes"},
    {"learn", (PyCFunction)planner_learned, METH_VARARGS, "learn(emitted, chosen, credits)"},
    {"pace", (PyCFunction)planner_paced, METH_VARARGS, "pace(tokens, seconds)"},
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
