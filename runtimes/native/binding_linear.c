/* A matrix by itself as a Python type. */
#include "binding.h"

typedef struct {
    PyObject_HEAD
    Model *model;
    Py_buffer data;
    EdLinear *linear;
    int busy;
} Linear;

static PyObject *linear_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"model", "spec", "data", NULL};
    PyObject *model;
    Py_buffer spec, data;
    char error[ED_ERROR_SIZE] = "a matrix is described by an EdLinearSpec";
    EdLinearSpec read;
    Linear *self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oy*z*", names, &model, &spec, &data))
        return NULL;
    self = ed_python_is_model(model) ? (Linear *)type->tp_alloc(type, 0) : NULL;
    if (!self) {
        PyBuffer_Release(&spec);
        PyBuffer_Release(&data);
        return PyErr_Occurred() ? NULL : ed_python_fail("a matrix stands beside a Model");
    }
    Py_INCREF(model);
    self->model = (Model *)model;
    self->data = data;
    if ((size_t)spec.len == sizeof read) {
        memcpy(&read, spec.buf, sizeof read);
        self->linear =
            ed_linear_open(self->model->model, &read, data.buf, (size_t)data.len, error);
    }
    PyBuffer_Release(&spec);
    if (self->linear)
        return (PyObject *)self;
    Py_DECREF(self);
    return ed_python_fail(error);
}

static void linear_free(Linear *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ed_linear_close(self->linear);
    PyBuffer_Release(&self->data);
    Py_XDECREF((PyObject *)self->model);
    type->tp_free(self);
    Py_DECREF(type);
}

/* How many rows x has, or -1 with what is wrong: every row needs `room` bytes of `out`. */
static int rows_of(const Linear *self, const Py_buffer *x, const Py_buffer *out, size_t room,
                   const char **problem)
{
    size_t line = (size_t)ed_linear_inputs(self->linear) * 4, rows = (size_t)x->len / line;
    *problem = NULL;
    if ((size_t)x->len % line || rows > 1 << 20)
        *problem = "rows have another width than the matrix";
    else if ((size_t)out->len / room < rows)
        *problem = "too little room for the result";
    else if (self->busy)
        *problem = "two threads use one matrix: open one for each";
    return *problem ? -1 : (int)rows;
}

static PyObject *ended(const char *problem)
{
    if (problem)
        return ed_python_fail(problem);
    Py_RETURN_NONE;
}

static PyObject *linear_run(Linear *self, PyObject *args)
{
    const char *problem;
    Py_buffer x, out;
    int rows;
    if (!PyArg_ParseTuple(args, "y*w*", &x, &out))
        return NULL;
    rows = rows_of(self, &x, &out, (size_t)ed_linear_outputs(self->linear) * 4, &problem);
    if (rows >= 0) {
        self->busy = 1;
        Py_BEGIN_ALLOW_THREADS ed_linear_run(self->linear, x.buf, rows, out.buf);
        Py_END_ALLOW_THREADS self->busy = 0;
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&out);
    return ended(problem);
}

static PyObject *linear_topk(Linear *self, PyObject *args)
{
    const char *problem = "the k of a top-k is 1 to the number of outputs";
    Py_buffer x, ids, values;
    int k, rows = -1;
    if (!PyArg_ParseTuple(args, "y*iw*w*", &x, &k, &ids, &values))
        return NULL;
    if (k >= 1 && k <= ed_linear_outputs(self->linear))
        rows = rows_of(self, &x, ids.len < values.len ? &ids : &values, (size_t)k * 4, &problem);
    if (rows >= 0) {
        self->busy = 1;
        Py_BEGIN_ALLOW_THREADS ed_linear_topk(self->linear, x.buf, rows, k, ids.buf, values.buf);
        Py_END_ALLOW_THREADS self->busy = 0;
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&ids);
    PyBuffer_Release(&values);
    return ended(problem);
}

static PyMethodDef linear_methods[] = {
    {"run", (PyCFunction)linear_run, METH_VARARGS, "run(x [n, inputs], out [n, outputs])"},
    {"topk", (PyCFunction)linear_topk, METH_VARARGS,
     "topk(x [n, inputs], k, ids [n, k], values [n, k]): the best of what run gives."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot linear_slots[] = {
    {Py_tp_doc, "Linear(model, spec, data): a matrix beside a model; data None: the model's."},
    {Py_tp_new, linear_new},
    {Py_tp_dealloc, linear_free},
    {Py_tp_methods, linear_methods},
    {0, NULL},
};

PyType_Spec ed_python_linear = {"edgedec.runtimes.native._engine.Linear", sizeof(Linear), 0,
                                Py_TPFLAGS_DEFAULT, linear_slots};
