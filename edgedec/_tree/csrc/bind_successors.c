/* Successors as a Python type. */
#include "binding.h"

#include <math.h>

/* The last MAX_ORDER tokens of a list or fewer; how many, or -1 with an exception. */
static int tail(PyObject *list, int32_t *out)
{
    Py_ssize_t size = PyList_GET_SIZE(list), start = size > MAX_ORDER ? size - MAX_ORDER : 0;
    for (Py_ssize_t i = start; i < size; i++)
        if (token_at(list, i, &out[i - start]))
            return -1;
    return (int)(size - start);
}

typedef struct {
    PyObject_HEAD
    Successors table;
} SuccessorsObject;

static PyObject *successors_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"first", "last", "sets", NULL};
    SuccessorsObject *self;
    Successors *table;
    int first, last, sets = 4096;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ii|i", names, &first, &last, &sets))
        return NULL;
    if (first < 1 || last < first || last > MAX_ORDER || sets < 1 || sets > 1 << 20 ||
        (sets & (sets - 1)))
        return PyErr_Format(PyExc_ValueError,
                            "contexts of %d to %d tokens in %d sets: 1 to %d tokens, and a power "
                            "of two of sets",
                            first, last, sets, MAX_ORDER);
    self = (SuccessorsObject *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    table = &self->table;
    *table = (Successors){.sets = sets, .first = first, .last = last, .longest = last};
    /* Untouched pages of a large calloc take no memory. */
    table->keys = calloc((size_t)sets * WAYS, sizeof *table->keys);
    table->stamps = calloc((size_t)sets * WAYS, sizeof *table->stamps);
    table->ids = calloc((size_t)sets * WAYS * WIDTH, sizeof *table->ids);
    table->weights = calloc((size_t)sets * WAYS * WIDTH, sizeof *table->weights);
    if (table->keys && table->stamps && table->ids && table->weights)
        return (PyObject *)self;
    Py_DECREF(self);
    return PyErr_NoMemory();
}

static void successors_free(SuccessorsObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    free(self->table.keys);
    free(self->table.stamps);
    free(self->table.ids);
    free(self->table.weights);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The first of the k values of a row as shares of all (what lies below them is left out); how many,
 * or 0 where the values hold no number to go by. */
static int softmax(const float *values, int k, float *shares)
{
    float sum = 0;
    int count = k < WIDTH ? k : WIDTH;
    for (int i = 0; i < k; i++) {
        float share = expf(values[i] - values[0]);
        sum += share;
        if (i < count)
            shares[i] = share;
    }
    for (int i = 0; i < count; i++)
        shares[i] /= sum;
    return isfinite(sum) ? count : 0;
}

static void learn_row(Successors *table, const int32_t *path, int known, const int32_t *ids,
                      const float *values, int k, float rate)
{
    float shares[WIDTH];
    int count = softmax(values, k, shares);
    for (int order = table->first; count && order <= table->last && order <= known; order++)
        successors_mix(table, successors_key(path, order, 0), ids, shares, count, rate);
}

static PyObject *successors_learn(SuccessorsObject *self, PyObject *args)
{
    Py_buffer v[4]; /* tokens, parents [n]; ids, values [n + 1, k] */
    PyObject *context;
    int32_t newest[MAX_ORDER];
    float rate;
    int known, nodes, k, bad;
    if (!PyArg_ParseTuple(args, "O!y*y*y*y*f", &PyList_Type, &context, &v[0], &v[1], &v[2], &v[3],
                          &rate))
        return NULL;
    known = check_numbers(v, 4, 4) ? -1 : tail(context, newest);
    nodes = length(&v[0]);
    k = length(&v[2]) / (nodes + 1);
    bad = known < 1 || length(&v[1]) != nodes || length(&v[2]) != length(&v[3]) || k < 1 ||
          length(&v[2]) % (nodes + 1) || !(rate >= 0 && rate <= 1);
    for (int row = 0; !bad && row <= nodes; row++) {
        const int32_t *tokens = v[0].buf, *parents = v[1].buf;
        int32_t path[MAX_ORDER];
        int have = 0, at = row - 1;
        for (; at >= 0 && have < MAX_ORDER; at = parents[at] < at ? parents[at] : -1)
            path[MAX_ORDER - 1 - have++] = tokens[at];
        for (int i = 0; i < known && have < MAX_ORDER; i++)
            path[MAX_ORDER - 1 - have++] = newest[known - 1 - i];
        learn_row(&self->table, path + MAX_ORDER - 1, have, (int32_t *)v[2].buf + row * k,
                  (float *)v[3].buf + row * k, k, rate);
    }
    release(v, 4);
    if (known < 0)
        return NULL;
    if (bad)
        return PyErr_Format(PyExc_ValueError,
                            "learn: the arrays do not fit together, or the rate is not 0 to 1");
    Py_RETURN_NONE;
}

static PyObject *successors_observe(SuccessorsObject *self, PyObject *args)
{
    Successors *table = &self->table;
    PyObject *list;
    Py_ssize_t start, size;
    int32_t path[MAX_ORDER + 1];
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &list, &start))
        return NULL;
    size = PyList_GET_SIZE(list);
    for (Py_ssize_t i = start < 1 ? 1 : start; i < size; i++) {
        int have = 0;
        for (; have <= MAX_ORDER && have <= i; have++)
            if (token_at(list, i - have, &path[MAX_ORDER - have]))
                return NULL;
        for (int order = table->first; order <= table->last && order < have; order++)
            successors_count(table, successors_key(path + MAX_ORDER - 1, order, 1),
                             path[MAX_ORDER]);
    }
    Py_RETURN_NONE;
}

static PyObject *successors_tree(SuccessorsObject *self, PyObject *args)
{
    PyObject *context;
    Py_buffer v[4]; /* tokens, parents, score, rank */
    int32_t newest[MAX_ORDER];
    unsigned long long seed, index;
    Growth how;
    int known, room, count = 0;
    if (!PyArg_ParseTuple(args, "O!iidKKw*w*w*w*", &PyList_Type, &context, &how.nodes, &how.depth,
                          &how.temperature, &seed, &index, &v[0], &v[1], &v[2], &v[3]))
        return NULL;
    how.seed = seed;
    how.index = index;
    known = check_numbers(v, 4, 4) ? -1 : tail(context, newest);
    room = room_in(v, 4);
    if (how.nodes > room)
        how.nodes = room;
    if (known > 0 && how.depth > 0)
        count = successors_grow(&self->table, newest + known - 1, known, &how,
                                &(Grown){v[0].buf, v[1].buf, v[3].buf, v[2].buf});
    release(v, 4);
    return known < 0 ? NULL : PyLong_FromLong(count);
}

/* What a table holds, entry by entry, without the empty ones. */
static PyObject *column(const Successors *table, size_t used, const void *from, size_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(used * size));
    char *to = bytes ? PyBytes_AS_STRING(bytes) : NULL;
    for (size_t i = 0; bytes && i < (size_t)table->sets * WAYS; i++)
        if (table->keys[i]) {
            memcpy(to, (const char *)from + i * size, size);
            to += size;
        }
    return bytes;
}

static PyObject *successors_dump(SuccessorsObject *self, PyObject *unused)
{
    const Successors *t = &self->table;
    size_t used = 0;
    (void)unused;
    for (size_t i = 0; i < (size_t)t->sets * WAYS; i++)
        used += t->keys[i] != 0;
    /* "N" takes the references over, and gives all back if one is NULL. */
    return Py_BuildValue("(NNN)", column(t, used, t->keys, sizeof *t->keys),
                         column(t, used, t->ids, WIDTH * sizeof *t->ids),
                         column(t, used, t->weights, WIDTH * sizeof *t->weights));
}

static PyObject *successors_load(SuccessorsObject *self, PyObject *args)
{
    Py_buffer v[3]; /* keys [n], ids, weights [n, WIDTH] */
    Py_ssize_t count;
    int fits, longest = 0;
    if (!PyArg_ParseTuple(args, "y*y*y*|i", &v[0], &v[1], &v[2], &longest))
        return NULL;
    count = v[0].len / 8;
    fits = v[0].len % 8 == 0 && v[1].len == count * WIDTH * 4 && v[2].len == v[1].len;
    for (Py_ssize_t i = 0; fits && i < count; i++) {
        /* Bytes out of a file may begin anywhere. */
        uint64_t key;
        int32_t ids[WIDTH];
        float weights[WIDTH];
        memcpy(&key, (char *)v[0].buf + i * (Py_ssize_t)sizeof key, sizeof key);
        memcpy(ids, (char *)v[1].buf + i * (Py_ssize_t)sizeof ids, sizeof ids);
        memcpy(weights, (char *)v[2].buf + i * (Py_ssize_t)sizeof weights, sizeof weights);
        if (key & 1)
            successors_mix(&self->table, key, ids, weights, WIDTH, 1);
    }
    if (fits && longest > self->table.longest)
        self->table.longest = longest < MAX_ORDER ? longest : MAX_ORDER;
    release(v, 3);
    if (!fits)
        return PyErr_Format(PyExc_ValueError, "load: the arrays do not fit together");
    Py_RETURN_NONE;
}

static Py_ssize_t successors_size(SuccessorsObject *self)
{
    Py_ssize_t used = 0;
    for (int i = 0; i < self->table.sets * WAYS; i++)
        used += self->table.keys[i] != 0;
    return used;
}

static PyMethodDef successors_methods[] = {
    {"learn", (PyCFunction)successors_learn, METH_VARARGS,
     "learn(context, tokens, parents, ids, values, rate)"},
    {"count", (PyCFunction)successors_observe, METH_VARARGS, "count(tokens, start)"},
    {"grow", (PyCFunction)successors_tree, METH_VARARGS,
     "grow(context, nodes, depth, temperature, seed, index, tokens, parents, score, rank)"},
    {"dump", (PyCFunction)successors_dump, METH_NOARGS, "(keys, ids, weights) as bytes"},
    {"load", (PyCFunction)successors_load, METH_VARARGS, "load(keys, ids, weights, longest=0)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot successors_slots[] = {
    {Py_tp_doc, "Successors(first, last, sets=4096)"},
    {Py_tp_new, successors_new},
    {Py_tp_dealloc, successors_free},
    {Py_tp_methods, successors_methods},
    {Py_sq_length, successors_size},
    {0, NULL},
};

PyType_Spec successors_type = {"edgedec._tree._fast.Successors", sizeof(SuccessorsObject), 0,
                               Py_TPFLAGS_DEFAULT, successors_slots};
