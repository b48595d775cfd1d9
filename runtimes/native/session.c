/* Sessions: opened and closed, and their rows. Steps, sources and results stand in their own files.
 */
#include <stdlib.h>
#include <string.h>

#include "model.h"

EdSession *ed_session_open(EdModel *model, int kv_type, int capacity, char *error)
{
    EdSession *session;
    if (kv_type != ED_KV_FP16 && kv_type != ED_KV_INT8) {
        ed_fail(error, "there is no type %d of keys and values", kv_type);
        return NULL;
    }
    if (capacity < 1 || capacity > ED_MOST_ROWS) {
        ed_fail(error, "a session cannot hold %d rows", capacity);
        return NULL;
    }
    session = calloc(1, sizeof *session);
    if (!session) {
        ed_fail(error, "no memory");
        return NULL;
    }
    session->model = model;
    session->kv_type = kv_type;
    session->capacity = ed_padded(capacity, ED_CHUNK);
    session->widths = ed_widths(model);
    session->positions = calloc((size_t)session->capacity, sizeof *session->positions);
    if (!session->positions)
        ed_fail(error, "no memory");
    else if (!ed_stores_open(&session->stores, model, kv_type, session->capacity, 0, error))
        return session;
    ed_session_close(session);
    return NULL;
}

void ed_session_close(EdSession *session)
{
    if (!session)
        return;
    ed_source_drop(session);
    ed_stores_close(&session->stores);
    ed_buffers_free(&session->buffers);
    free(session->positions);
    free(session);
}

int ed_session_capacity(const EdSession *session)
{
    return session->capacity;
}

size_t ed_session_bytes(const EdSession *session, int count)
{
    return ed_row_bytes(session->model, session->kv_type, 0) * (size_t)count;
}

void ed_session_get(const EdSession *session, int count, void *bytes)
{
    ed_stores_get(&session->stores, count, bytes);
}

void ed_session_set(EdSession *session, int count, const int32_t *positions, const void *bytes)
{
    ed_stores_set(&session->stores, count, bytes);
    memcpy(session->positions, positions, (size_t)count * sizeof *positions);
}

int ed_session_move(EdSession *session, const int32_t *from, const int32_t *to, int count,
                    char *error)
{
    for (int i = 0; i < count; i++) {
        int rising = !i || (from[i] > from[i - 1] && to[i] > to[i - 1]);
        if (!rising || to[i] < 0 || to[i] > from[i] || from[i] >= session->capacity)
            return ed_fail(error, "rows move only down, in rising order");
    }
    ed_stores_move(&session->stores, from, to, count);
    for (int i = 0; i < count; i++)
        session->positions[to[i]] = session->positions[from[i]];
    return 0;
}
