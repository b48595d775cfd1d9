/* The step that nearly all are, as few calls from Python as can be: a tree of new rows below the
 * trunk's end runs all layers, and one of its paths becomes trunk. Who sees whom follows from the
 * parents; every other step is described row by row (`binding_session.c`). */
#include "binding.h"

enum { PARENTS, TOKENS, PLACES, POSITIONS, LISTS };

static int32_t *list(const EdPythonTree *tree, int which)
{
    return tree->lists + (size_t)which * (size_t)tree->room;
}

void ed_python_tree_free(EdPythonTree *tree)
{
    free(tree->lists);
    free(tree->visible);
}

/* Room for so many rows; 0, or -1 with an exception. */
static int reserve(EdPythonTree *tree, int rows)
{
    int room = rows < 16 ? 16 : rows;
    if (rows <= tree->room)
        return 0;
    ed_python_tree_free(tree);
    *tree = (EdPythonTree){
        .lists = malloc((size_t)LISTS * (size_t)room * sizeof(int32_t)),
        .visible = malloc((size_t)room * (size_t)room),
    };
    if (tree->lists && tree->visible) {
        tree->room = room;
        return 0;
    }
    PyErr_NoMemory();
    return -1;
}

/* Whether these rows are a tree of known ids within the context; then `tree` describes them, and
 * `chain` says whether each follows the one before it. */
static int describe(EdPythonTree *tree, const Py_buffer *tokens, const Py_buffer *parents, int rows,
                    int position, int most, int ids, int *chain)
{
    int32_t *ours = list(tree, PARENTS), *positions = list(tree, POSITIONS);
    memcpy(list(tree, TOKENS), tokens->buf, (size_t)rows * sizeof(int32_t));
    memcpy(ours, parents->buf, (size_t)rows * sizeof(int32_t));
    *chain = 1;
    for (int i = 0; i < rows; i++) {
        int32_t token = list(tree, TOKENS)[i];
        if (token < 0 || token >= ids || ours[i] < -1 || ours[i] >= i)
            return 0;
        positions[i] = ours[i] < 0 ? position : positions[ours[i]] + 1;
        if (positions[i] < 0 || positions[i] >= most)
            return 0;
        *chain &= ours[i] == i - 1;
        list(tree, PLACES)[i] = i;
    }
    for (int i = 0; !*chain && i < rows; i++) {
        unsigned char *sees = tree->visible + (size_t)i * (size_t)rows;
        if (ours[i] < 0)
            memset(sees, 0, (size_t)rows);
        else
            memcpy(sees, tree->visible + (size_t)ours[i] * (size_t)rows, (size_t)rows);
        sees[i] = 1;
    }
    return 1;
}

/* Whether an object lends 32-bit numbers that follow each other. */
static int lends(PyObject *array, Py_buffer *view)
{
    if (PyObject_GetBuffer(array, view, PyBUF_SIMPLE)) {
        PyErr_Clear();
        return 0;
    }
    if (view->itemsize == 4)
        return 1;
    PyBuffer_Release(view);
    return 0;
}

enum { V_LEARNED, V_RANGES, V_LAYERS, V_HIDDEN, V_PARSED, V_TOKENS = V_PARSED, V_PARENTS, BUFFERS };

PyObject *ed_python_tree_step(Session *self, PyObject *args)
{
    EdPythonTree *tree = &self->tree;
    int trunk, position, most, ids, rows, chain, status = 0, ran = 0;
    size_t width = (size_t)ed_model_dim(self->model->model) * sizeof(float);
    char error[ED_ERROR_SIZE];
    Py_buffer v[BUFFERS] = {0};
    PyObject *tokens, *parents;
    EdStep step;
    if (!PyArg_ParseTuple(args, "iiiiOOz*y*y*w*", &trunk, &position, &most, &ids, &tokens, &parents,
                          &v[0], &v[1], &v[2], &v[3]))
        return NULL;
    /* Of others nothing follows here: the call for any step makes something of them. */
    rows = lends(tokens, &v[V_TOKENS]) && lends(parents, &v[V_PARENTS])
               ? (int)(v[V_TOKENS].len / 4)
               : 0;
    if (rows > 0 && v[V_PARENTS].len == v[V_TOKENS].len && rows <= ed_session_capacity(self->session) &&
        (size_t)v[V_HIDDEN].len >= (size_t)(v[V_LAYERS].len / 4) * (size_t)rows * width &&
        !ed_python_begin(self)) {
        tree->rows = 0;
        if (!reserve(tree, rows) &&
            describe(tree, &v[V_TOKENS], &v[V_PARENTS], rows, position, most, ids, &chain)) {
            step = (EdStep){
                .rows = rows,
                .trunk = trunk,
                .living = rows,
                .handles = list(tree, PLACES),
                .positions = list(tree, POSITIONS),
                .visible = chain ? NULL : tree->visible,
                .tokens = list(tree, TOKENS),
                .learned = v[V_LEARNED].buf,
                .learned_count = (int32_t)((size_t)v[V_LEARNED].len / width),
                .ranges = v[V_RANGES].buf,
                .range_count = (int32_t)(v[V_RANGES].len / 8),
                .head_rows = list(tree, PLACES),
                .head_count = rows,
                .hidden_layers = v[V_LAYERS].buf,
                .hidden_count = (int32_t)(v[V_LAYERS].len / 4),
                .hidden = v[V_HIDDEN].buf,
            };
            ran = 1;
            Py_BEGIN_ALLOW_THREADS status = ed_session_step(self->session, &step, error);
            Py_END_ALLOW_THREADS
        }
        tree->rows = ran && !status ? rows : 0;
        self->busy = 0;
    }
    for (int i = 0; i < BUFFERS; i++)
        PyBuffer_Release(&v[i]);
    if (PyErr_Occurred())
        return NULL;
    return status ? ed_python_fail(error) : PyBool_FromLong(ran);
}

static PyObject *as_list(const int32_t *numbers, int count)
{
    PyObject *found = PyList_New(count);
    for (int i = 0; found && i < count; i++) {
        PyObject *number = PyLong_FromLong(numbers[i]);
        if (!number)
            Py_CLEAR(found);
        else
            PyList_SET_ITEM(found, i, number);
    }
    return found;
}

/* The tokens of the path to a row (-1: none), whose rows close ranks behind the trunk. */
PyObject *ed_python_tree_keep(Session *self, PyObject *args)
{
    EdPythonTree *tree = &self->tree;
    int trunk, leaf, count = 0, still = 0, status = 0;
    char error[ED_ERROR_SIZE];
    int32_t *from, *to;
    PyObject *tokens = NULL;
    if (!PyArg_ParseTuple(args, "ii", &trunk, &leaf))
        return NULL;
    if (leaf < -1 || leaf >= tree->rows || trunk < 0 || trunk > ed_session_capacity(self->session))
        return ed_python_fail("the latest step had no such row");
    if (ed_python_begin(self))
        return NULL;
    for (int row = leaf; row >= 0; row = list(tree, PARENTS)[row])
        count++;
    tokens = PyList_New(count);
    from = list(tree, PLACES);
    to = list(tree, POSITIONS);
    for (int row = leaf, at = count - 1; row >= 0; row = list(tree, PARENTS)[row], at--) {
        from[at] = trunk + row;
        to[at] = trunk + at;
    }
    /* No token is written over before it was read: a path is at or behind its place. */
    for (int i = 0; i < count; i++)
        list(tree, TOKENS)[i] = list(tree, TOKENS)[from[i] - trunk];
    tokens = as_list(list(tree, TOKENS), count);
    /* Rows rise along a path: those before the first gap stay where they are. */
    while (tokens && still < count && from[still] == to[still])
        still++;
    if (tokens && still < count)
        status = ed_session_move(self->session, from + still, to + still, count - still, error);
    tree->rows = 0;
    self->busy = 0;
    if (!status)
        return tokens;
    Py_DECREF(tokens);
    return ed_python_fail(error);
}

/* Tokens and parents of the latest such step. */
PyObject *ed_python_tree_rows(Session *self, PyObject *unused)
{
    const EdPythonTree *tree = &self->tree;
    (void)unused;
    /* "N" takes the references over, and gives all back if one is NULL. */
    return Py_BuildValue("(NN)", as_list(list(tree, TOKENS), tree->rows),
                         as_list(list(tree, PARENTS), tree->rows));
}
