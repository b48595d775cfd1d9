/* What the Python module's files share. */
#ifndef ED_BINDING_H
#define ED_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "edgedec.h"

typedef struct Model {
    PyObject_HEAD
    EdModel *model;
    Py_buffer data;
    struct Model *first; /* whose data and threads it uses; NULL: its own */
} Model;

/* The rows of a step of a tree below the trunk's end: see binding_tree.c. */
typedef struct {
    int rows, room;
    int32_t *lists; /* parents, tokens, and room for what the step needs to be told */
    unsigned char *visible;
} EdPythonTree;

typedef struct {
    PyObject_HEAD
    Model *model;
    EdSession *session;
    int busy;
    EdPythonTree tree;
} Session;

/* NULL, with the exception for what the engine refuses. */
PyObject *ed_python_fail(const char *message);

extern PyType_Spec ed_python_model, ed_python_session, ed_python_linear;

int ed_python_is_model(PyObject *object);

/* 0, and nobody else may use the session; or -1 with an exception. */
int ed_python_begin(Session *self);

void ed_python_tree_free(EdPythonTree *tree);
PyObject *ed_python_tree_step(Session *self, PyObject *args);
PyObject *ed_python_tree_rows(Session *self, PyObject *unused);
PyObject *ed_python_tree_keep(Session *self, PyObject *args);

#endif
