/* A session as a Python type: steps, what is asked of them, rows and sources. */
#include <limits.h>

#include "binding.h"

static PyObject *session_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"model", "kv_type", "capacity", NULL};
    PyObject *model;
    int kv_type, capacity;
    char error[ED_ERROR_SIZE];
    Session *self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oii", names, &model, &kv_type, &capacity))
        return NULL;
    if (!ed_python_is_model(model))
        return ed_python_fail("a session is opened on a Model");
    self = (Session *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    Py_INCREF(model);
    self->model = (Model *)model;
    self->session = ed_session_open(self->model->model, kv_type, capacity, error);
    if (self->session)
        return (PyObject *)self;
    Py_DECREF(self);
    return ed_python_fail(error);
}

static void session_free(Session *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ed_session_close(self->session);
    ed_python_tree_free(&self->tree);
    Py_XDECREF((PyObject *)self->model);
    type->tp_free(self);
    Py_DECREF(type);
}

int ed_python_begin(Session *self)
{
    if (self->busy) {
        ed_python_fail("two threads use one session: open one for each");
        return -1;
    }
    self->busy = 1;
    return 0;
}

/* The buffers of a step, in the order in which Python gives them. */
enum {
    HANDLES,
    POSITIONS,
    VISIBLE,
    TOKENS,
    VECTORS,
    LEARNED,
    RANGES,
    HEAD_ROWS,
    LAYERS,
    HIDDEN,
    BUFFERS
};

/* NULL with an exception, or None. */
static PyObject *ended(const char *problem)
{
    if (PyErr_Occurred())
        return NULL;
    if (problem)
        return ed_python_fail(problem);
    Py_RETURN_NONE;
}

/* Numbers of `size` bytes in a buffer. */
static int32_t length(const Py_buffer *view, size_t size)
{
    return (int32_t)((size_t)view->len / size);
}

static int has(const Py_buffer *view, size_t bytes)
{
    return !view->obj || (size_t)view->len >= bytes;
}

static const char *fill(EdStep *step, const Py_buffer *v, int trunk, int living, int dim)
{
    size_t rows = (size_t)length(&v[HANDLES], 4), vectors = rows * (size_t)dim * 4;
    *step = (EdStep){
        .rows = (int32_t)rows,
        .trunk = trunk,
        .living = living,
        .handles = v[HANDLES].buf,
        .positions = v[POSITIONS].buf,
        .visible = v[VISIBLE].buf,
        .tokens = v[TOKENS].buf,
        .vectors = v[VECTORS].buf,
        .learned = v[LEARNED].buf,
        .learned_count = length(&v[LEARNED], (size_t)dim * 4),
        .ranges = v[RANGES].buf,
        .range_count = length(&v[RANGES], 8),
        .head_rows = v[HEAD_ROWS].buf,
        .head_count = length(&v[HEAD_ROWS], 4),
        .hidden_layers = v[LAYERS].buf,
        .hidden_count = length(&v[LAYERS], 4),
        .hidden = v[HIDDEN].buf,
    };
    if (!has(&v[POSITIONS], rows * 4))
        return "a step needs a position for each row";
    if (living < 0 || !has(&v[VISIBLE], rows * (size_t)living))
        return "visible must be [rows, living]";
    if (!has(&v[TOKENS], rows * 4) || !has(&v[VECTORS], vectors))
        return "a step needs a token or a vector for each row";
    if (!has(&v[HIDDEN], (size_t)step->hidden_count * vectors))
        return "hidden must be [layers, rows, dim]";
    return NULL;
}

static PyObject *session_step(Session *self, PyObject *args)
{
    int trunk, living, dim, status = 0;
    const char *problem;
    char error[ED_ERROR_SIZE];
    Py_buffer v[BUFFERS];
    EdStep step;
    if (!PyArg_ParseTuple(args, "iiiy*y*z*z*z*z*y*y*y*w*", &trunk, &living, &dim, &v[0], &v[1],
                          &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9]))
        return NULL;
    problem = dim == ed_model_dim(self->model->model) ? fill(&step, v, trunk, living, dim)
                                                      : "vectors have another width than the model";
    if (!problem && !ed_python_begin(self)) {
        Py_BEGIN_ALLOW_THREADS status = ed_session_step(self->session, &step, error);
        Py_END_ALLOW_THREADS self->busy = 0;
    }
    for (int i = 0; i < BUFFERS; i++)
        PyBuffer_Release(&v[i]);
    return ended(status ? error : problem);
}

static PyObject *session_logits(Session *self, PyObject *args)
{
    const char *problem = NULL;
    const float *logits;
    Py_buffer out;
    int line;
    if (!PyArg_ParseTuple(args, "iw*", &line, &out))
        return NULL;
    if (!ed_python_begin(self)) {
        logits = ed_session_logits(self->session, line);
        if (!logits || (size_t)out.len < ed_session_line(self->session))
            problem = "the latest step gave no such line of logits, or it does not fit";
        else
            memcpy(out.buf, logits, ed_session_line(self->session));
        self->busy = 0;
    }
    PyBuffer_Release(&out);
    return ended(problem);
}

static PyObject *session_argmax(Session *self, PyObject *args)
{
    const char *problem = NULL;
    Py_buffer out;
    if (!PyArg_ParseTuple(args, "w*", &out))
        return NULL;
    if (out.len < 4 * (Py_ssize_t)ed_session_lines(self->session)) {
        problem = "too little room for the result";
    } else if (!ed_python_begin(self)) {
        Py_BEGIN_ALLOW_THREADS ed_session_argmax(self->session, out.buf);
        Py_END_ALLOW_THREADS self->busy = 0;
    }
    PyBuffer_Release(&out);
    return ended(problem);
}

static PyObject *session_topk(Session *self, PyObject *args)
{
    const char *problem = NULL;
    Py_buffer ids, values;
    Py_ssize_t room;
    int k;
    if (!PyArg_ParseTuple(args, "iw*w*", &k, &ids, &values))
        return NULL;
    room = 4 * (Py_ssize_t)k * ed_session_lines(self->session);
    if (k < 1 || ids.len < room || values.len < room) {
        problem = "too little room for the result";
    } else if (!ed_python_begin(self)) {
        Py_BEGIN_ALLOW_THREADS ed_session_topk(self->session, k, ids.buf, values.buf);
        Py_END_ALLOW_THREADS self->busy = 0;
    }
    PyBuffer_Release(&ids);
    PyBuffer_Release(&values);
    return ended(problem);
}

static PyObject *session_move(Session *self, PyObject *args)
{
    const char *problem = NULL;
    char error[ED_ERROR_SIZE];
    Py_buffer from, to;
    if (!PyArg_ParseTuple(args, "y*y*", &from, &to))
        return NULL;
    if (from.len != to.len) {
        problem = "rows move one by one";
    } else if (!ed_python_begin(self)) {
        if (ed_session_move(self->session, from.buf, to.buf, (int)(from.len / 4), error))
            problem = error;
        self->busy = 0;
    }
    PyBuffer_Release(&from);
    PyBuffer_Release(&to);
    return ended(problem);
}

static PyObject *session_get(Session *self, PyObject *args)
{
    PyObject *bytes;
    int count;
    if (!PyArg_ParseTuple(args, "i", &count))
        return NULL;
    if (count < 0 || count > ed_session_capacity(self->session))
        return ed_python_fail("there are not so many rows");
    if (ed_python_begin(self))
        return NULL;
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)ed_session_bytes(self->session, count));
    if (bytes)
        ed_session_get(self->session, count, PyBytes_AS_STRING(bytes));
    self->busy = 0;
    return bytes;
}

static PyObject *session_set(Session *self, PyObject *args)
{
    const char *problem = NULL;
    Py_buffer positions, bytes;
    int count;
    if (!PyArg_ParseTuple(args, "y*y*", &positions, &bytes))
        return NULL;
    count = (int)(positions.len / 4);
    if (count > ed_session_capacity(self->session) ||
        (size_t)bytes.len != ed_session_bytes(self->session, count)) {
        problem = "the saved rows have another size than this session's";
    } else if (!ed_python_begin(self)) {
        ed_session_set(self->session, count, positions.buf, bytes.buf);
        self->busy = 0;
    }
    PyBuffer_Release(&positions);
    PyBuffer_Release(&bytes);
    return ended(problem);
}

static PyObject *session_source(Session *self, PyObject *args)
{
    const char *problem = NULL;
    char error[ED_ERROR_SIZE];
    size_t line = (size_t)ed_model_dim(self->model->model) * 4;
    int status = 0;
    Py_buffer vectors;
    if (!PyArg_ParseTuple(args, "y*", &vectors))
        return NULL;
    if ((size_t)vectors.len % line || (size_t)vectors.len / line > INT_MAX) {
        problem = "vectors have another width than the model";
    } else if (!ed_python_begin(self)) {
        int rows = (int)((size_t)vectors.len / line);
        Py_BEGIN_ALLOW_THREADS status = ed_session_source(self->session, vectors.buf, rows, error);
        Py_END_ALLOW_THREADS self->busy = 0;
    }
    PyBuffer_Release(&vectors);
    return ended(status ? error : problem);
}

static PyObject *session_source_rows(Session *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(ed_session_source_rows(self->session));
}

static PyObject *session_source_bytes(Session *self, PyObject *args)
{
    int rows;
    if (!PyArg_ParseTuple(args, "i", &rows))
        return NULL;
    if (rows < 0)
        return ed_python_fail("there are not so many rows");
    return PyLong_FromSize_t(ed_session_source_bytes(self->session, rows));
}

static PyObject *session_share_source(Session *self, PyObject *other)
{
    char error[ED_ERROR_SIZE];
    int status = 0;
    if (Py_TYPE(other) != Py_TYPE(self))
        return ed_python_fail("a source is shared with a Session");
    if (!((Session *)other)->busy && !ed_python_begin(self)) {
        status = ed_session_share_source(self->session, ((Session *)other)->session, error);
        self->busy = 0;
        return ended(status ? error : NULL);
    }
    return ended("two threads use one session: open one for each");
}

static PyObject *session_get_source(Session *self, PyObject *unused)
{
    int rows = ed_session_source_rows(self->session);
    PyObject *bytes;
    (void)unused;
    if (ed_python_begin(self))
        return NULL;
    bytes =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)ed_session_source_bytes(self->session, rows));
    if (bytes)
        ed_session_get_source(self->session, PyBytes_AS_STRING(bytes));
    self->busy = 0;
    return bytes;
}

static PyObject *session_set_source(Session *self, PyObject *args)
{
    const char *problem = NULL;
    char error[ED_ERROR_SIZE];
    Py_buffer bytes;
    int rows;
    if (!PyArg_ParseTuple(args, "iy*", &rows, &bytes))
        return NULL;
    if (rows < 1 || (size_t)bytes.len != ed_session_source_bytes(self->session, rows)) {
        problem = "the saved source has another size than this session's";
    } else if (!ed_python_begin(self)) {
        if (ed_session_set_source(self->session, rows, bytes.buf, error))
            problem = error;
        self->busy = 0;
    }
    PyBuffer_Release(&bytes);
    return ended(problem);
}

static PyGetSetDef session_values[] = {
    {"source_rows", (getter)session_source_rows, NULL, "Rows of the source; 0: none.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef session_methods[] = {
    {"step", (PyCFunction)session_step, METH_VARARGS,
     "step(trunk, living, dim, handles, positions, visible, tokens, vectors, learned, ranges,\n"
     "head_rows, hidden_layers, hidden): see EdStep; None where there is nothing."},
    {"tree_step", (PyCFunction)ed_python_tree_step, METH_VARARGS,
     "tree_step(trunk, position, most, ids, tokens, parents, learned, ranges, hidden_layers,\n"
     "hidden): whether it was a tree below the trunk's end, and was run."},
    {"tree_rows", (PyCFunction)ed_python_tree_rows, METH_NOARGS,
     "tree_rows(): tokens and parents of the latest such step."},
    {"tree_keep", (PyCFunction)ed_python_tree_keep, METH_VARARGS,
     "tree_keep(trunk, leaf): the path to a row of the latest such step becomes trunk; its tokens."},
    {"logits", (PyCFunction)session_logits, METH_VARARGS, "logits(line, out [vocab])"},
    {"argmax", (PyCFunction)session_argmax, METH_VARARGS, "argmax(out [lines])"},
    {"topk", (PyCFunction)session_topk, METH_VARARGS, "topk(k, ids [lines, k], values [lines, k])"},
    {"move", (PyCFunction)session_move, METH_VARARGS, "move(from, to): rows change their place."},
    {"get", (PyCFunction)session_get, METH_VARARGS, "get(count): rows [0, count) as bytes."},
    {"set", (PyCFunction)session_set, METH_VARARGS, "set(positions, bytes): the reverse of get."},
    {"source", (PyCFunction)session_source, METH_VARARGS,
     "source(vectors [rows, dim]): read a source from now on."},
    {"share_source", (PyCFunction)session_share_source, METH_O,
     "share_source(session): read the source of another one."},
    {"source_bytes", (PyCFunction)session_source_bytes, METH_VARARGS,
     "source_bytes(rows): how many get_source gives for so many rows."},
    {"get_source", (PyCFunction)session_get_source, METH_NOARGS, "get_source(): it as bytes."},
    {"set_source", (PyCFunction)session_set_source, METH_VARARGS,
     "set_source(rows, bytes): the reverse of get_source."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot session_slots[] = {
    {Py_tp_doc, "Session(model, kv_type, capacity)"},
    {Py_tp_new, session_new},
    {Py_tp_dealloc, session_free},
    {Py_tp_methods, session_methods},
    {Py_tp_getset, session_values},
    {0, NULL},
};

PyType_Spec ed_python_session = {"edgedec.runtimes.native._engine.Session", sizeof(Session), 0,
                                 Py_TPFLAGS_DEFAULT, session_slots};
