/* The engine as a Python module: buffers in, buffers out, and the GIL released while it computes.
 */
#include "binding.h"

static PyObject *failure; /* what the engine refuses */

PyObject *ed_python_fail(const char *message)
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
    return ed_python_fail(error);
}

static void model_free(Model *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ed_model_close(self->model);
    PyBuffer_Release(&self->data);
    Py_XDECREF((PyObject *)self->first);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *model_beside(Model *self, PyObject *args)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_buffer spec, data = {0};
    char error[ED_ERROR_SIZE];
    Model *other;
    if (!PyArg_ParseTuple(args, "y*|z*", &spec, &data))
        return NULL;
    other = (Model *)type->tp_alloc(type, 0);
    if (other) {
        Py_INCREF(self);
        other->first = self;
        other->data = data;
        other->model = ed_model_beside(self->model, spec.buf, (size_t)spec.len, data.buf,
                                       (size_t)data.len, error);
    } else {
        PyBuffer_Release(&data);
    }
    PyBuffer_Release(&spec);
    if (!other || other->model)
        return (PyObject *)other;
    Py_DECREF(other);
    return ed_python_fail(error);
}

static PyObject *model_embed(Model *self, PyObject *args)
{
    const char *problem = "vectors must be [ids, dim]";
    char error[ED_ERROR_SIZE];
    Py_buffer ids, out;
    size_t count;
    if (!PyArg_ParseTuple(args, "y*w*", &ids, &out))
        return NULL;
    count = (size_t)ids.len / 4;
    if (count <= 1 << 20 && (size_t)out.len >= count * 4 * (size_t)ed_model_dim(self->model))
        problem = ed_model_embed(self->model, ids.buf, (int)count, out.buf, error) ? error : NULL;
    PyBuffer_Release(&ids);
    PyBuffer_Release(&out);
    if (problem)
        return ed_python_fail(problem);
    Py_RETURN_NONE;
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

static PyMethodDef model_methods[] = {
    {"beside", (PyCFunction)model_beside, METH_VARARGS,
     "beside(spec, data=None): a second model with the same threads; None: over the same data."},
    {"embed", (PyCFunction)model_embed, METH_VARARGS,
     "embed(ids [n], out [n, dim]): as they enter layer 0, without positions."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc, "Model(spec, data, isa, threads)"},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_free},
    {Py_tp_getset, model_values},
    {Py_tp_methods, model_methods},
    {0, NULL},
};

PyType_Spec ed_python_model = {"edgedec.runtimes.native._engine.Model", sizeof(Model), 0,
                               Py_TPFLAGS_DEFAULT, model_slots};

int ed_python_is_model(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == (destructor)model_free;
}

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
    PyObject *model = PyType_FromSpec(&ed_python_model),
             *session = PyType_FromSpec(&ed_python_session),
             *linear = PyType_FromSpec(&ed_python_linear);
    failure = PyErr_NewException("edgedec.runtimes.native._engine.Refused", PyExc_ValueError, NULL);
    return PyModule_AddObjectRef(module, "Model", model) ||
                   PyModule_AddObjectRef(module, "Session", session) ||
                   PyModule_AddObjectRef(module, "Linear", linear) ||
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
