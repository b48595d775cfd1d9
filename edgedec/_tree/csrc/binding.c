/* The hot part of drafting as a Python module: lists and buffers in, buffers out. */
#include "binding.h"

/* So few that sums and small multiples are ints as well. */
enum { MOST_NUMBERS = 1 << 28 };

int check_numbers(const Py_buffer *views, int count, int bytes)
{
    for (int i = 0; i < count; i++) {
        const Py_buffer *view = &views[i];
        int width = view->itemsize == 1 || view->itemsize == bytes;
        if (view->len && (!width || (uintptr_t)view->buf % (uintptr_t)bytes ||
                          view->len / bytes > MOST_NUMBERS)) {
            PyErr_Format(PyExc_ValueError, "an array is no array of %d-bit numbers", 8 * bytes);
            return -1;
        }
    }
    return 0;
}

int token_of(PyObject *number, int32_t *out)
{
    long token;
    Py_INCREF(number);
    token = PyLong_AsLong(number);
    Py_DECREF(number);
    if (token == -1 && PyErr_Occurred())
        return -1;
    *out = (int32_t)token;
    if (*out == token)
        return 0;
    PyErr_Format(PyExc_OverflowError, "%ld is no token", token);
    return -1;
}

int token_at(PyObject *list, Py_ssize_t place, int32_t *out)
{
    if (place < PyList_GET_SIZE(list))
        return token_of(PyList_GET_ITEM(list, place), out);
    PyErr_SetString(PyExc_ValueError, "a list became shorter while it was read");
    return -1;
}

static PyObject *draw(PyObject *module, PyObject *args)
{
    Py_buffer logits;
    double temperature;
    unsigned long long seed, index;
    int token = -1, bad;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*dKK", &logits, &temperature, &seed, &index))
        return NULL;
    bad = check_numbers(&logits, 1, 4);
    if (!bad)
        token = noise_draw(logits.buf, length(&logits), temperature, seed, index);
    PyBuffer_Release(&logits);
    return bad ? NULL : PyLong_FromLong(token);
}

/* The numbers as a tuple. */
static PyObject *tuple_of(const int32_t *numbers, int count)
{
    PyObject *found = PyTuple_New(count);
    for (int i = 0; found && i < count; i++) {
        PyObject *number = PyLong_FromLong(numbers[i]);
        if (!number)
            Py_CLEAR(found);
        else
            PyTuple_SET_ITEM(found, i, number);
    }
    return found;
}

static PyObject *follow(PyObject *module, PyObject *args)
{
    Py_buffer v[3]; /* tokens, parents, best */
    int32_t path[MAX_NODES], said[MAX_NODES + 1];
    int root, node = -1, count = 0, nodes;
    PyObject *found = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*y*i", &v[0], &v[1], &v[2], &root))
        return NULL;
    nodes = length(&v[0]);
    if (check_numbers(v, 3, 4)) {
        /* `found` is still NULL. */
    } else if (length(&v[1]) == nodes && nodes <= MAX_NODES && root >= 0 &&
               root < length(&v[2]) - nodes) {
        const int32_t *tokens = v[0].buf, *parents = v[1].buf, *best = v[2].buf;
        said[0] = best[root];
        /* Parents stand before their children, so one look at each node is enough. */
        for (int i = 0; i < nodes; i++)
            if (parents[i] == node && tokens[i] == said[count]) {
                path[count++] = node = i;
                said[count] = best[root + 1 + node];
            }
        found = Py_BuildValue("(NN)", tuple_of(path, count), tuple_of(said, count + 1));
    } else {
        PyErr_SetString(PyExc_ValueError, "follow: tokens, parents and best do not fit together");
    }
    release(v, 3);
    return found;
}

/* Tokens of a list into an array; 0, or -1 with an exception. */
static int copy_tokens(PyObject *list, int count, int32_t *out)
{
    for (int i = 0; i < count; i++)
        if (token_at(list, i, &out[i]))
            return -1;
    return 0;
}

static PyObject *lay(PyObject *module, PyObject *args)
{
    Py_buffer v[4]; /* tokens, parents; those of the rows, to be written */
    PyObject *chain;
    int first, links, nodes, bad = 1;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!y*y*iw*w*", &PyList_Type, &chain, &v[0], &v[1], &first, &v[2],
                          &v[3]))
        return NULL;
    if (!check_numbers(v, 4, 4)) {
        nodes = length(&v[0]);
        links = (int)PyList_GET_SIZE(chain);
        if (length(&v[1]) != nodes || nodes > MAX_NODES || first < 0 || links < 1 ||
            links > room_in(v + 2, 2) - nodes) {
            PyErr_SetString(PyExc_ValueError, "lay: chain, tree and rows do not fit together");
        } else if (!copy_tokens(chain, links, v[2].buf)) {
            /* Without signs, since odd numbers may pass the largest. */
            uint32_t *parents = v[3].buf, handle = (uint32_t)first;
            parents[0] = (uint32_t)-1;
            for (int i = 1; i < links; i++)
                parents[i] = handle++;
            memcpy((int32_t *)v[2].buf + links, v[0].buf, (size_t)nodes * sizeof(int32_t));
            for (int i = 0; i < nodes; i++)
                parents[links + i] = handle + 1 + ((uint32_t *)v[1].buf)[i];
            bad = 0;
        }
    }
    release(v, 4);
    return bad ? NULL : PyLong_FromLong(links + nodes);
}

static PyMethodDef functions[] = {
    {"draw", draw, METH_VARARGS, "draw(logits, temperature, seed, index): a token, or -1"},
    {"follow", follow, METH_VARARGS,
     "follow(tokens, parents, best, root): the accepted nodes, and what was said"},
    {"lay", lay, METH_VARARGS,
     "lay(chain, tokens, parents, first, row_tokens, row_parents): how many rows"},
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
