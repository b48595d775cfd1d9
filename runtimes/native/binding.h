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

typedef struct {
    PyObject_HEAD
    Model *model;
    EdSession *session;
    int busy;
} Session;

/* NULL, with the exception for what the engine refuses. */
PyObject *ed_python_fail(const char *message);

extern PyType_Spec ed_python_model, ed_python_session, ed_python_linear;

int ed_python_is_model(PyObject *object);

#endif
