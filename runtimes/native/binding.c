/* The engine as a Python module: buffers in, buffers out, and the GIL released while it computes. */
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

/* --- model ---------------------------------------------------------------------------------- */

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
    self->model = ed_model_open(spec.buf, (size_t)spec.len, data.buf, (size_t)data.len, isa,
                                threads, error);
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

/* --- session -------------------------------------------------------------------------------- */

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
enum { HANDLES, POSITIONS, VISIBLE, TOKENS, VECTORS, LEARNED, RANGES, HEAD_ROWS, LAYERS, HIDDEN,
       BUFFERS };

typedef struct {
    Py_buffer views[BUFFERS];
    int count;
} Views;

static void release(Views *views)
{
    for (int i = 0; i < views->count; i++)
        if (views->views[i].obj)
            PyBuffer_Release(&views->views[i]);
}

static int acquire(Views *views, PyObject *const *objects)
{
    for (views->count = 0; views->count < BUFFERS; views->count++) {
        Py_buffer *view = &views->views[views->count];
        int flags = views->count == HIDDEN ? PyBUF_CONTIG : PyBUF_CONTIG_RO;
        memset(view, 0, sizeof *view);
        if (objects[views->count] != Py_None &&
            PyObject_GetBuffer(objects[views->count], view, flags)) {
            release(views);
            return -1;
        }
    }
    return 0;
}

/* Numbers of `size` bytes in a buffer. */
static int32_t length(const Views *views, int which, size_t size)
{
    return (int32_t)((size_t)views->views[which].len / size);
}

static int has(const Views *views, int which, size_t bytes)
{
    return (size_t)views->views[which].len >= bytes;
}

static const char *fill(EdStep *step, const Views *views, int trunk, int living, int dim)
{
    const Py_buffer *v = views->views;
    size_t rows = (size_t)length(views, HANDLES, 4), vectors = rows * (size_t)dim * 4;
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
        .learned_count = length(views, LEARNED, (size_t)dim * 4),
        .ranges = v[RANGES].buf,
        .range_count = length(views, RANGES, 8),
        .head_rows = v[HEAD_ROWS].buf,
        .head_count = length(views, HEAD_ROWS, 4),
        .hidden_layers = v[LAYERS].buf,
        .hidden_count = length(views, LAYERS, 4),
        .hidden = v[HIDDEN].buf,
    };
    if (!has(views, POSITIONS, rows * 4))
        return "a step needs a position for each row";
    if (v[VISIBLE].obj && (living < 0 || !has(views, VISIBLE, rows * (size_t)living)))
        return "visible must be [rows, living]";
    if ((v[TOKENS].obj && !has(views, TOKENS, rows * 4)) ||
        (v[VECTORS].obj && !has(views, VECTORS, vectors)))
        return "a step needs a token or a vector for each row";
    if (!has(views, HIDDEN, (size_t)step->hidden_count * vectors))
        return "hidden must be [layers, rows, dim]";
    return NULL;
}

static PyObject *session_step(Session *self, PyObject *args)
{
    PyObject *objects[BUFFERS];
    int trunk, living, dim, status;
    const char *problem;
    char error[ED_ERROR_SIZE];
    EdStep step;
    Views views;
    if (!PyArg_ParseTuple(args, "iiiOOOOOOOOOO", &trunk, &living, &dim, &objects[0], &objects[1],
                          &objects[2], &objects[3], &objects[4], &objects[5], &objects[6],
                          &objects[7], &objects[8], &objects[9]))
        return NULL;
    if (dim != ed_model_dim(self->model->model))
        return fail("vectors have another width than the model");
    if (acquire(&views, objects))
        return NULL;
    problem = fill(&step, &views, trunk, living, dim);
    if (problem || begin(self)) {
        release(&views);
        return problem ? fail(problem) : NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    status = ed_session_step(self->session, &step, error);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    release(&views);
    if (status)
        return fail(error);
    Py_RETURN_NONE;
}

static PyObject *session_logits(Session *self, PyObject *args)
{
    int line;
    Py_buffer out;
    const float *logits;
    if (!PyArg_ParseTuple(args, "iw*", &line, &out))
        return NULL;
    logits = ed_session_logits(self->session, line);
    if (logits)
        memcpy(out.buf, logits,
               (size_t)out.len < ed_session_line(self->session) ? (size_t)out.len
                                                                : ed_session_line(self->session));
    PyBuffer_Release(&out);
    if (!logits)
        return fail("the latest step gave no such line of logits");
    Py_RETURN_NONE;
}

static PyObject *session_argmax(Session *self, PyObject *args)
{
    Py_buffer out;
    int fits;
    if (!PyArg_ParseTuple(args, "w*", &out))
        return NULL;
    fits = out.len >= 4 * (Py_ssize_t)ed_session_lines(self->session);
    if (fits && !begin(self)) {
        Py_BEGIN_ALLOW_THREADS
        ed_session_argmax(self->session, out.buf);
        Py_END_ALLOW_THREADS
        self->busy = 0;
    }
    PyBuffer_Release(&out);
    if (PyErr_Occurred())
        return NULL;
    if (!fits)
        return fail("too little room for the result");
    Py_RETURN_NONE;
}

static PyObject *session_topk(Session *self, PyObject *args)
{
    Py_buffer ids, values;
    int k, fits;
    if (!PyArg_ParseTuple(args, "iw*w*", &k, &ids, &values))
        return NULL;
    fits = k > 0 && ids.len >= 4 * (Py_ssize_t)k * ed_session_lines(self->session) &&
           values.len >= 4 * (Py_ssize_t)k * ed_session_lines(self->session);
    if (fits && !begin(self)) {
        Py_BEGIN_ALLOW_THREADS
        ed_session_topk(self->session, k, ids.buf, values.buf);
        Py_END_ALLOW_THREADS
        self->busy = 0;
    }
    PyBuffer_Release(&ids);
    PyBuffer_Release(&values);
    if (PyErr_Occurred())
        return NULL;
    if (!fits)
        return fail("too little room for the result");
    Py_RETURN_NONE;
}

static PyObject *session_move(Session *self, PyObject *args)
{
    Py_buffer from, to;
    char error[ED_ERROR_SIZE];
    int status = -1;
    if (!PyArg_ParseTuple(args, "y*y*", &from, &to))
        return NULL;
    if (from.len == to.len && !begin(self)) {
        status = ed_session_move(self->session, from.buf, to.buf, (int)(from.len / 4), error);
        self->busy = 0;
    } else if (from.len != to.len) {
        strcpy(error, "rows move one by one");
    }
    PyBuffer_Release(&from);
    PyBuffer_Release(&to);
    if (PyErr_Occurred())
        return NULL;
    if (status)
        return fail(error);
    Py_RETURN_NONE;
}

static PyObject *session_get(Session *self, PyObject *args)
{
    int count;
    PyObject *bytes;
    if (!PyArg_ParseTuple(args, "i", &count))
        return NULL;
    if (count < 0 || count > ed_session_capacity(self->session))
        return fail("there are not so many rows");
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)ed_session_bytes(self->session, count));
    if (bytes)
        ed_session_get(self->session, count, PyBytes_AS_STRING(bytes));
    return bytes;
}

static PyObject *session_set(Session *self, PyObject *args)
{
    Py_buffer positions, bytes;
    int count, fits;
    if (!PyArg_ParseTuple(args, "y*y*", &positions, &bytes))
        return NULL;
    count = (int)(positions.len / 4);
    fits = count <= ed_session_capacity(self->session) &&
           (size_t)bytes.len == ed_session_bytes(self->session, count);
    if (fits)
        ed_session_set(self->session, count, positions.buf, bytes.buf);
    PyBuffer_Release(&positions);
    PyBuffer_Release(&bytes);
    if (!fits)
        return fail("the saved rows have another size than this session's");
    Py_RETURN_NONE;
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

/* --- module --------------------------------------------------------------------------------- */

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
