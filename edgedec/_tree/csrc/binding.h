/* What the files of the binding share: one file for each type, `binding.c` for the module. */
#ifndef EDGEDEC_TREE_BINDING_H
#define EDGEDEC_TREE_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "tree.h"

extern PyType_Spec suffixes_type, successors_type, planner_type;

/* 0 if all of the buffers hold numbers of so many bytes, else -1 with an exception: those of
 * another width, those that begin at an odd address, and those too long to be counted in 32 bits
 * are refused. Without this, `length` is not to be trusted. */
int check_numbers(const Py_buffer *views, int count, int bytes);

/* 32-bit numbers in a buffer. */
static inline int32_t length(const Py_buffer *view)
{
    return (int32_t)(view->len / 4);
}

/* How many fit into all of the buffers. */
static inline int32_t room_in(const Py_buffer *views, int count)
{
    int32_t room = length(&views[0]);
    for (int i = 1; i < count; i++)
        room = length(&views[i]) < room ? length(&views[i]) : room;
    return room;
}

/* A token that is given as a Python number, or one of a list; 0, or -1 with an exception. Python
 * code may run here and may change the list, so a place is looked up as late as possible. */
int token_of(PyObject *number, int32_t *out);
int token_at(PyObject *list, Py_ssize_t place, int32_t *out);

static inline void release(Py_buffer *views, int count)
{
    for (int i = 0; i < count; i++)
        PyBuffer_Release(&views[i]);
}

#endif
