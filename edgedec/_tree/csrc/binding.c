/* The hot part of drafting as a Python module: lists and buffers in, buffers out. */
#include "binding.h"

static PyObject *draw(PyObject *module, PyObject *args)
{
    Py_buffer logits;
    double temperature;
    unsigned long long seed, index;
    int token;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*dKK", &logits, &temperature, &seed, &index))
        return NULL;
    token = noise_draw(logits.buf, length(&logits), temperature, seed, index);
    PyBuffer_Release(&logits);
    return PyLong_FromLong(token);
}

static PyObject *follow(PyObject *module, PyObject *args)
{
    Py_buffer v[3]; /* tokens, parents, best */
    int32_t path[MAX_NODES];
    int root, node = -1, count = 0, nodes;
    PyObject *found = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*y*i", &v[0], &v[1], &v[2], &root))
        return NULL;
    nodes = length(&v[0]);
    if (length(&v[1]) == nodes && root >= 0 && length(&v[2]) > root + nodes && nodes <= MAX_NODES) {
        const int32_t *tokens = v[0].buf, *parents = v[1].buf, *best = v[2].buf;
        /* Parents stand before their children, so one look at each node is enough. */
        for (int i = 0; i < nodes; i++)
            if (parents[i] == node && tokens[i] == best[root + 1 + node])
                path[count++] = node = i;
        found = PyTuple_New(count);
        for (int i = 0; found && i < count; i++)
            PyTuple_SET_ITEM(found, i, PyLong_FromLong(path[i]));
    } else {
        PyErr_SetString(PyExc_ValueError, "follow: tokens, parents and best do not fit together");
    }
    release(v, 3);
    return found;
}

static PyMethodDef functions[] = {
    {"draw", draw, METH_VARARGS, "draw(logits, temperature, seed, index): a token, or -1"},
    {"follow", follow, METH_VARARGS, "follow(tokens, parents, best, root): the accepted nodes"},
    {NULL, NULL, 0, NULL},
};

static int add_all(PyObject *module)
{
    static PyType_Spec *const types[] = {&suffixes_type, &successors_type, &planner_type};
    static const char *const names[] = {"Suffixes", "Successors", "Planner"};
    for (int i = 0; i < 3; i++) {
        PyObject *type = PyType_FromSpec(types[i]);
        int failed = PyModule_AddObjectRef(module, names[i], type);
        Py_XDECREF(type);
        if (failed)
            return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_all}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "edgedec._tree._fast",
    .m_doc = "The hot part of drafting; see tree.h.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__fast(void)
{
    return PyModuleDef_Init(&definition);
}
