/* Sessions: opened and closed. Steps, rows and results stand in their own files. */
#include <stdlib.h>

#include "model.h"

#define MOST_ROWS (1 << 27)

EdSession *ed_session_open(EdModel *model, int kv_type, int capacity, char *error)
{
    EdSession *session;
    if (kv_type != ED_KV_FP16 && kv_type != ED_KV_INT8) {
        ed_fail(error, "there is no type %d of keys and values", kv_type);
        return NULL;
    }
    if (capacity < 1 || capacity > MOST_ROWS) {
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
    session->chunks = (capacity + ED_CHUNK - 1) / ED_CHUNK;
    session->capacity = session->chunks * ED_CHUNK;
    session->widths = ed_widths(model);
    session->positions = calloc((size_t)session->capacity, sizeof *session->positions);
    session->stores = calloc((size_t)model->spec.layers, sizeof *session->stores);
    if (session->positions && session->stores) {
        if (!ed_stores_open(session, error))
            return session;
    } else {
        ed_fail(error, "no memory");
    }
    ed_session_close(session);
    return NULL;
}

void ed_session_close(EdSession *session)
{
    if (!session)
        return;
    ed_stores_close(session);
    ed_buffers_free(&session->buffers);
    free(session->positions);
    free(session->stores);
    free(session);
}

int ed_session_capacity(const EdSession *session)
{
    return session->capacity;
}
