/* What the files of the binding share: one file for each type, `binding.c` for the module. */
#ifndef EDGEDEC_TREE_BINDING_H
#define EDGEDEC_TREE_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "tree.h"

extern PyType_Spec suffixes_type, successors_type, planner_type;

/* 32-bit numbers in a buffer. */
static inline int32_t length(const Py_buffer *view)
{
    return (int32_t)(view->len / 4);
}

static inline void release(Py_buffer *views, int count)
{
    for (int i = 0; i < count; i++)
        PyBuffer_Release(&views[i]);
}

#endif
