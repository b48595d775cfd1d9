/* Suffixes as a Python type. */
#include "binding.h"

typedef struct {
    PyObject_HEAD
    Suffixes *text;
} SuffixesObject;

static PyObject *suffixes_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", "ends", NULL};
    SuffixesObject *self = NULL;
    Py_buffer ends = {0};
    int limit = 1 << 15;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|iy*", names, &limit, &ends))
        return NULL;
    if (limit < 2)
        PyErr_Format(PyExc_ValueError, "a text of %d tokens repeats nothing", limit);
    else if (limit > MAX_LIMIT)
        PyErr_Format(PyExc_ValueError, "a text of %d tokens is too long", limit);
    else if (!ends.buf || !check_numbers(&ends, 1, 4))
        self = (SuffixesObject *)type->tp_alloc(type, 0);
    if (self && !(self->text = suffixes_open(limit, ends.buf, ends.buf ? length(&ends) : 0))) {
        Py_DECREF(self);
        self = (SuffixesObject *)PyErr_NoMemory();
    }
    if (ends.buf)
        PyBuffer_Release(&ends);
    return (PyObject *)self;
}

static void suffixes_free(SuffixesObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    suffixes_close(self->text);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *suffixes_extend(SuffixesObject *self, PyObject *args)
{
    PyObject *list;
    Py_ssize_t start;
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &list, &start))
        return NULL;
    /* As a slice would have it. */
    if (start < 0)
        start = start + PyList_GET_SIZE(list) > 0 ? start + PyList_GET_SIZE(list) : 0;
    for (Py_ssize_t i = start; i < PyList_GET_SIZE(list); i++) {
        int32_t token;
        if (token_at(list, i, &token))
            return NULL;
        if (suffixes_push(self->text, token))
            return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

static PyObject *suffixes_matches(SuffixesObject *self, PyObject *args)
{
    Match found[MAX_PLACES];
    PyObject *list;
    int most, count;
    if (!PyArg_ParseTuple(args, "i", &most))
        return NULL;
    count = suffixes_match(self->text, found, most);
    list = PyList_New(count);
    for (int i = 0; list && i < count; i++) {
        PyObject *pair = Py_BuildValue("(iL)", found[i].length, (long long)found[i].end);
        if (!pair)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, pair);
    }
    return list;
}

static PyObject *suffixes_copied(SuffixesObject *self, PyObject *args)
{
    Py_buffer v[4]; /* tokens, parents, score, rank */
    Copying how;
    int room, count = 0, bad;
    if (!PyArg_ParseTuple(args, "iiiw*w*w*w*", &how.most, &how.branches, &how.shortest, &v[0],
                          &v[1], &v[2], &v[3]))
        return NULL;
    bad = check_numbers(v, 4, 4);
    room = bad ? 0 : room_in(v, 4);
    if (how.most > room)
        how.most = room;
    if (!bad)
        count = suffixes_copy(self->text, &how, &(Grown){v[0].buf, v[1].buf, v[3].buf, v[2].buf});
    release(v, 4);
    return bad ? NULL : PyLong_FromLong(count);
}

static PyObject *suffixes_clear(SuffixesObject *self, PyObject *unused)
{
    (void)unused;
    suffixes_reset(self->text);
    Py_RETURN_NONE;
}

static Py_ssize_t suffixes_size(SuffixesObject *self)
{
    return (Py_ssize_t)suffixes_length(self->text);
}

static PyMethodDef suffixes_methods[] = {
    {"extend", (PyCFunction)suffixes_extend, METH_VARARGS, "extend(tokens, start)"},
    {"matches", (PyCFunction)suffixes_matches, METH_VARARGS, "matches(most): [(length, end)]"},
    {"copy", (PyCFunction)suffixes_copied, METH_VARARGS,
     "copy(most, branches, shortest, tokens, parents, score, rank): how many nodes"},
    {"reset", (PyCFunction)suffixes_clear, METH_NOARGS, "Forget the text."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot suffixes_slots[] = {
    {Py_tp_doc, "Suffixes(limit=32768, ends=())"}, {Py_tp_new, suffixes_new},
    {Py_tp_dealloc, suffixes_free},       {Py_tp_methods, suffixes_methods},
    {Py_sq_length, suffixes_size},        {0, NULL},
};

PyType_Spec suffixes_type = {"edgedec._tree._fast.Suffixes", sizeof(SuffixesObject), 0,
                             Py_TPFLAGS_DEFAULT, suffixes_slots};
