/* The engine as a Python module: buffers in, buffers out, and the GIL released while it computes.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "edgedec.h"

typedef struct {
    PyObject_HEAD
    EdModel *model;
    Py_buffer data;
} Model;

typedef struct {
    PyObject_HEAD
    Model *model;
    EdSession *session;
    int busy;
} Session;

static PyObject *failure; /* what the engine refuses */

static PyObject *fail(const char *message)
{
    PyErr_SetString(failure, message);
    return NULL;
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"spec", "data", "isa", "threads", NULL};
    Py_buffer spec, data;
    const char *isa;
    int threads;
    char error[ED_ERROR_SIZE];
    Model *self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*y*zi", names, &spec, &data, &isa, &threads))
        return NULL;
    self = (Model *)type->tp_alloc(type, 0);
    if (!self) {
        PyBuffer_Release(&spec);
        PyBuffer_Release(&data);
        return NULL;
    }
    self->data = data;
    self->model =
        ed_model_open(spec.buf, (size_t)spec.len, data.buf, (size_t)data.len, isa, threads, error);
    PyBuffer_Release(&spec);
    if (self->model)
        return (PyObject *)self;
    Py_DECREF(self);
    return fail(error);
}

static void model_free(Model *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ed_model_close(self->model);
    PyBuffer_Release(&self->data);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *model_isa(Model *self, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(ed_model_isa(self->model));
}

static PyGetSetDef model_values[] = {
    {"isa", (getter)model_isa, NULL, "The instruction set in use.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc, "Model(spec, data, isa, threads)"},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_free},
    {Py_tp_getset, model_values},
    {0, NULL},
};

static PyType_Spec model_type = {"edgedec.runtimes.native._engine.Model", sizeof(Model), 0,
                                 Py_TPFLAGS_DEFAULT, model_slots};

static PyObject *session_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"model", "kv_type", "capacity", NULL};
    PyObject *model;
    int kv_type, capacity;
    char error[ED_ERROR_SIZE];
    Session *self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oii", names, &model, &kv_type, &capacity))
        return NULL;
    if (Py_TYPE(model)->tp_dealloc != (destructor)model_free)
        return fail("a session is opened on a Model");
    self = (Session *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    Py_INCREF(model);
    self->model = (Model *)model;
    self->session = ed_session_open(self->model->model, kv_type, capacity, error);
    if (self->session)
        return (PyObject *)self;
    Py_DECREF(self);
    return fail(error);
}

static void session_free(Session *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ed_session_close(self->session);
    Py_XDECREF((PyObject *)self->model);
    type->tp_free(self);
    Py_DECREF(type);
}

static int begin(Session *self)
{
    if (self->busy) {
        fail("two threads use one session: open one for each");
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
        return fail(problem);
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
    if (!problem && !begin(self)) {
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
    if (!begin(self)) {
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
    } else if (!begin(self)) {
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
    } else if (!begin(self)) {
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
    } else if (!begin(self)) {
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
        return fail("there are not so many rows");
    if (begin(self))
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
    } else if (!begin(self)) {
        ed_session_set(self->session, count, positions.buf, bytes.buf);
        self->busy = 0;
    }
    PyBuffer_Release(&positions);
    PyBuffer_Release(&bytes);
    return ended(problem);
}

static PyMethodDef session_methods[] = {
    {"step", (PyCFunction)session_step, METH_VARARGS,
     "step(trunk, living, dim, handles, positions, visible, tokens, vectors, learned, ranges,\n"
     "head_rows, hidden_layers, hidden): see EdStep; None where there is nothing."},
    {"logits", (PyCFunction)session_logits, METH_VARARGS, "logits(line, out [vocab])"},
    {"argmax", (PyCFunction)session_argmax, METH_VARARGS, "argmax(out [lines])"},
    {"topk", (PyCFunction)session_topk, METH_VARARGS, "topk(k, ids [lines, k], values [lines, k])"},
    {"move", (PyCFunction)session_move, METH_VARARGS, "move(from, to): rows change their place."},
    {"get", (PyCFunction)session_get, METH_VARARGS, "get(count): rows [0, count) as bytes."},
    {"set", (PyCFunction)session_set, METH_VARARGS, "set(positions, bytes): the reverse of get."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot session_slots[] = {
    {Py_tp_doc, "Session(model, kv_type, capacity)"},
    {Py_tp_new, session_new},
    {Py_tp_dealloc, session_free},
    {Py_tp_methods, session_methods},
    {0, NULL},
};

static PyType_Spec session_type = {"edgedec.runtimes.native._engine.Session", sizeof(Session), 0,
                                   Py_TPFLAGS_DEFAULT, session_slots};

static PyObject *isas(PyObject *self, PyObject *unused)
{
    const char *const *names = ed_isas();
    PyObject *list = PyList_New(0);
    (void)self;
    (void)unused;
    for (; list && *names; names++) {
        PyObject *name = PyUnicode_FromString(*names);
        if (!name || PyList_Append(list, name))
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static PyMethodDef functions[] = {
    {"isas", isas, METH_NOARGS, "The instruction sets that can be used here, best first."},
    {NULL, NULL, 0, NULL},
};

static int add_all(PyObject *module)
{
    PyObject *model = PyType_FromSpec(&model_type), *session = PyType_FromSpec(&session_type);
    failure = PyErr_NewException("edgedec.runtimes.native._engine.Refused", PyExc_ValueError, NULL);
    return PyModule_AddObjectRef(module, "Model", model) ||
                   PyModule_AddObjectRef(module, "Session", session) ||
                   PyModule_AddObjectRef(module, "Refused", failure)
               ? -1
               : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_all}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "edgedec.runtimes.native._engine",
    .m_doc = "edgedec's CPU engine; see edgedec.h.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__engine(void)
{
    return PyModuleDef_Init(&definition);
}
