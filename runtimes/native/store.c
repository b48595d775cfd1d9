/* Keys and values: reserved for the whole context, touched as rows come. See EdStore. */
#define _DEFAULT_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "model.h"

typedef struct {
    size_t keys, scales;
} Sizes;

/* Bytes of the keys, and of their scales, of one layer; those of the values are as many. */
static Sizes sizes(const EdSession *session, const EdLayer *layer)
{
    size_t rows = (size_t)layer->kv_heads * (size_t)session->chunks * ED_CHUNK;
    size_t numbers = rows * (size_t)ed_padded(layer->head_dim, 16);
    if (session->kv_type == ED_KV_INT8)
        return (Sizes){numbers, rows * sizeof(float)};
    return (Sizes){numbers * sizeof(uint16_t), 0};
}

int ed_stores_open(EdSession *session, char *error)
{
    const EdModel *model = session->model;
    size_t total = 0;
    unsigned char *next;
    for (int i = 0; i < model->spec.layers; i++) {
        Sizes size = sizes(session, &model->layers[i]);
        total += 2 * (size.keys + size.scales);
    }
    next = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0);
    if (next == MAP_FAILED)
        return ed_fail(error, "no address space for %zu bytes of keys and values", total);
    session->memory = next;
    session->memory_size = total;
    for (int i = 0; i < model->spec.layers; i++) {
        Sizes size = sizes(session, &model->layers[i]);
        EdStore *store = &session->stores[i];
        store->dim = ed_padded(model->layers[i].head_dim, 16);
        store->keys = next;
        store->values = next + size.keys;
        store->key_scales = (float *)(next + 2 * size.keys);
        store->value_scales = (float *)(next + 2 * size.keys + size.scales);
        next += 2 * (size.keys + size.scales);
    }
    return 0;
}

void ed_stores_close(EdSession *session)
{
    if (session->memory)
        munmap(session->memory, session->memory_size);
}

/* One row's key stands across the lines of its chunk, its value is a line. With 8 bit four
 * neighbours of a key lie together, and the same number of four neighbouring values. */
static void put_halves(const EdStore *store, size_t chunk, int column, const uint16_t *key,
                       const uint16_t *value)
{
    uint16_t *keys = (uint16_t *)store->keys + chunk * ED_CHUNK * (size_t)store->dim + column;
    uint16_t *values =
        (uint16_t *)store->values + (chunk * ED_CHUNK + (size_t)column) * (size_t)store->dim;
    for (int i = 0; i < store->dim; i++)
        keys[i * ED_CHUNK] = key[i];
    memcpy(values, value, (size_t)store->dim * sizeof *value);
}

static void get_halves(const EdStore *store, size_t chunk, int column, uint16_t *key,
                       uint16_t *value)
{
    const uint16_t *keys = (uint16_t *)store->keys + chunk * ED_CHUNK * (size_t)store->dim + column;
    const uint16_t *values =
        (uint16_t *)store->values + (chunk * ED_CHUNK + (size_t)column) * (size_t)store->dim;
    for (int i = 0; i < store->dim; i++)
        key[i] = keys[i * ED_CHUNK];
    memcpy(value, values, (size_t)store->dim * sizeof *value);
}

static void put_bytes(const EdStore *store, size_t chunk, int column, const int8_t *key,
                      const int8_t *value)
{
    int8_t *keys = (int8_t *)store->keys + chunk * ED_CHUNK * (size_t)store->dim;
    int8_t *values = (int8_t *)store->values + chunk * ED_CHUNK * (size_t)store->dim;
    for (int i = 0; i < store->dim; i++) {
        keys[(i / 4 * ED_CHUNK + column) * 4 + i % 4] = key[i];
        values[(column / 4 * store->dim + i) * 4 + column % 4] = value[i];
    }
}

static void get_bytes(const EdStore *store, size_t chunk, int column, int8_t *key, int8_t *value)
{
    const int8_t *keys = (int8_t *)store->keys + chunk * ED_CHUNK * (size_t)store->dim;
    const int8_t *values = (int8_t *)store->values + chunk * ED_CHUNK * (size_t)store->dim;
    for (int i = 0; i < store->dim; i++) {
        key[i] = keys[(i / 4 * ED_CHUNK + column) * 4 + i % 4];
        value[i] = values[(column / 4 * store->dim + i) * 4 + column % 4];
    }
}

void ed_store_row(const EdSession *session, int layer, int head, int index, const float *key,
                  const float *value)
{
    const EdStore *store = &session->stores[layer];
    const EdKernels *kernels = session->model->kernels;
    size_t chunk = (size_t)head * (size_t)session->chunks + (size_t)(index / ED_CHUNK);
    int column = index % ED_CHUNK;
    uint16_t halves[2][ED_MOST_HEAD_DIM];
    int8_t bytes[2][ED_MOST_HEAD_DIM];
    if (session->kv_type == ED_KV_FP16) {
        kernels->to_half(key, store->dim, halves[0]);
        kernels->to_half(value, store->dim, halves[1]);
        put_halves(store, chunk, column, halves[0], halves[1]);
        return;
    }
    store->key_scales[chunk * ED_CHUNK + (size_t)column] =
        kernels->to_bytes(key, store->dim, bytes[0]);
    store->value_scales[chunk * ED_CHUNK + (size_t)column] =
        kernels->to_bytes(value, store->dim, bytes[1]);
    put_bytes(store, chunk, column, bytes[0], bytes[1]);
}

/* --- rows in and out ------------------------------------------------------------------------ */

/* What get and set go through: every layer and head, numbers first, then scales. */
typedef struct {
    unsigned char *numbers;
    float *scales;
    size_t size; /* of a number */
} Cursor;

static Cursor cursor(const EdSession *session, int count, void *bytes)
{
    size_t numbers = 0;
    const EdModel *model = session->model;
    size_t size = session->kv_type == ED_KV_INT8 ? 1 : sizeof(uint16_t);
    for (int i = 0; i < model->spec.layers; i++)
        numbers += 2 * (size_t)model->layers[i].kv_heads * (size_t)model->layers[i].head_dim;
    return (Cursor){bytes, (float *)((unsigned char *)bytes + numbers * size * (size_t)count),
                    size};
}

size_t ed_session_bytes(const EdSession *session, int count)
{
    size_t total = 0;
    int bytes = session->kv_type == ED_KV_INT8;
    for (int i = 0; i < session->model->spec.layers; i++) {
        const EdLayer *la = &session->model->layers[i];
        total += 2 * (size_t)la->kv_heads *
                 ((size_t)la->head_dim * (bytes ? 1 : sizeof(uint16_t)) + (bytes ? 4 : 0));
    }
    return total * (size_t)count;
}

/* One row of one head, padded to the store's width with zeros. */
typedef union {
    uint16_t halves[2][ED_MOST_HEAD_DIM];
    int8_t bytes[2][ED_MOST_HEAD_DIM];
} Row;

static void get_row(const EdSession *session, const EdStore *store, size_t chunk, int column,
                    Row *row)
{
    if (session->kv_type == ED_KV_INT8)
        get_bytes(store, chunk, column, row->bytes[0], row->bytes[1]);
    else
        get_halves(store, chunk, column, row->halves[0], row->halves[1]);
}

static void put_row(const EdSession *session, const EdStore *store, size_t chunk, int column,
                    const Row *row)
{
    if (session->kv_type == ED_KV_INT8)
        put_bytes(store, chunk, column, row->bytes[0], row->bytes[1]);
    else
        put_halves(store, chunk, column, row->halves[0], row->halves[1]);
}

static unsigned char *part_of(Row *row, const EdSession *session, int part)
{
    return session->kv_type == ED_KV_INT8 ? (unsigned char *)row->bytes[part]
                                          : (unsigned char *)row->halves[part];
}

/* Rows [0, count) of one layer and head from the session to the cursor, or back. */
static void carry(const EdSession *session, int layer, int head, int count, const Cursor *at,
                  int back)
{
    const EdStore *store = &session->stores[layer];
    const EdLayer *la = &session->model->layers[layer];
    size_t line = (size_t)la->head_dim * at->size;
    size_t values = (size_t)la->kv_heads * (size_t)count;
    for (int i = 0; i < count; i++) {
        size_t chunk = (size_t)head * (size_t)session->chunks + (size_t)(i / ED_CHUNK);
        size_t place = (size_t)head * (size_t)count + (size_t)i;
        float *key_scale = &store->key_scales[chunk * ED_CHUNK + (size_t)(i % ED_CHUNK)];
        float *value_scale = &store->value_scales[chunk * ED_CHUNK + (size_t)(i % ED_CHUNK)];
        Row row;
        memset(&row, 0, sizeof row);
        if (!back)
            get_row(session, store, chunk, i % ED_CHUNK, &row);
        for (int part = 0; part < 2; part++) {
            unsigned char *outside = at->numbers + (place + (size_t)part * values) * line;
            unsigned char *inside = part_of(&row, session, part);
            memcpy(back ? inside : outside, back ? outside : inside, line);
        }
        if (back)
            put_row(session, store, chunk, i % ED_CHUNK, &row);
        if (session->kv_type != ED_KV_INT8)
            continue;
        memcpy(back ? key_scale : at->scales + place, back ? at->scales + place : key_scale, 4);
        memcpy(back ? value_scale : at->scales + place + values,
               back ? at->scales + place + values : value_scale, 4);
    }
}

static void carry_all(const EdSession *session, int count, void *bytes, int back)
{
    Cursor at = cursor(session, count, bytes);
    for (int i = 0; i < session->model->spec.layers; i++) {
        const EdLayer *la = &session->model->layers[i];
        size_t rows = 2 * (size_t)la->kv_heads * (size_t)count;
        for (int head = 0; head < la->kv_heads; head++)
            carry(session, i, head, count, &at, back);
        at.numbers += rows * (size_t)la->head_dim * at.size;
        at.scales += rows;
    }
}

void ed_session_get(const EdSession *session, int count, void *bytes)
{
    carry_all(session, count, bytes, 0);
}

void ed_session_set(EdSession *session, int count, const int32_t *positions, const void *bytes)
{
    carry_all(session, count, (void *)bytes, 1);
    memcpy(session->positions, positions, (size_t)count * sizeof *positions);
}

static void move_row(const EdSession *session, const EdStore *store, int head, int from, int to)
{
    size_t first = (size_t)head * (size_t)session->chunks;
    size_t source = (first + (size_t)(from / ED_CHUNK)) * ED_CHUNK + (size_t)(from % ED_CHUNK);
    size_t target = (first + (size_t)(to / ED_CHUNK)) * ED_CHUNK + (size_t)(to % ED_CHUNK);
    Row row;
    get_row(session, store, source / ED_CHUNK, from % ED_CHUNK, &row);
    put_row(session, store, target / ED_CHUNK, to % ED_CHUNK, &row);
    if (session->kv_type == ED_KV_INT8) {
        store->key_scales[target] = store->key_scales[source];
        store->value_scales[target] = store->value_scales[source];
    }
}

int ed_session_move(EdSession *session, const int32_t *from, const int32_t *to, int count,
                    char *error)
{
    for (int i = 0; i < count; i++) {
        int rising = !i || (from[i] > from[i - 1] && to[i] > to[i - 1]);
        if (!rising || to[i] < 0 || to[i] > from[i] || from[i] >= session->capacity)
            return ed_fail(error, "rows move only down, in rising order");
    }
    /* Downward and in order, no row is overwritten before it has moved. */
    for (int layer = 0; layer < session->model->spec.layers; layer++)
        for (int head = 0; head < session->model->layers[layer].kv_heads; head++)
            for (int i = 0; i < count; i++)
                move_row(session, &session->stores[layer], head, from[i], to[i]);
    for (int i = 0; i < count; i++)
        session->positions[to[i]] = session->positions[from[i]];
    return 0;
}
