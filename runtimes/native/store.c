/* Keys and values: reserved for all rows there may be, touched as they come. See EdStore. */
#define _DEFAULT_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model.h"

/* Bytes of the keys of one layer, and of their scales; those of the values are as many. */
typedef struct {
    size_t keys, scales;
} Sizes;

static Sizes sizes(const EdStore *store)
{
    size_t rows = (size_t)store->heads * (size_t)store->chunks * ED_CHUNK;
    size_t numbers = rows * (size_t)store->dim;
    if (store->kv_type == ED_KV_INT8)
        return (Sizes){numbers, rows * sizeof(float)};
    return (Sizes){numbers * sizeof(uint16_t), 0};
}

static size_t size_of(const EdStore *store)
{
    Sizes size = sizes(store);
    return 2 * (size.keys + size.scales);
}

static EdStore shape_of(const EdModel *model, int layer, int kv_type, int rows, int cross)
{
    const EdLayer *la = &model->layers[layer];
    const EdAttention *spec = cross ? &la->cross : &la->own;
    return (EdStore){
        .heads = spec->q.weight ? spec->kv_heads : 0,
        .head_dim = spec->head_dim,
        .dim = ed_padded(spec->head_dim, 16),
        .chunks = (rows + ED_CHUNK - 1) / ED_CHUNK,
        .kv_type = kv_type,
    };
}

static void lay_out(EdStore *store, unsigned char *memory)
{
    Sizes size = sizes(store);
    store->keys = memory;
    store->values = memory + size.keys;
    store->key_scales = (float *)(memory + 2 * size.keys);
    store->value_scales = (float *)(memory + 2 * size.keys + size.scales);
}

/* An encoder's layers use the same memory one after the other. */
int ed_stores_open(EdStores *stores, const EdModel *model, int kv_type, int rows, int cross,
                   char *error)
{
    size_t total = 0, largest = 0, next = 0;
    stores->count = model->spec.layers;
    stores->of = calloc((size_t)stores->count, sizeof *stores->of);
    if (!stores->of)
        return ed_fail(error, "no memory");
    for (int i = 0; i < stores->count; i++) {
        size_t size;
        stores->of[i] = shape_of(model, i, kv_type, rows, cross);
        size = size_of(&stores->of[i]);
        total += size;
        largest = size > largest ? size : largest;
    }
    stores->size = model->spec.encoder ? largest : total;
    stores->memory = mmap(NULL, stores->size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stores->memory == MAP_FAILED) {
        stores->memory = NULL;
        return ed_fail(error, "no address space for %zu bytes of keys and values", stores->size);
    }
    for (int i = 0; i < stores->count; i++) {
        lay_out(&stores->of[i], stores->memory + next);
        next += model->spec.encoder ? 0 : size_of(&stores->of[i]);
    }
    return 0;
}

void ed_stores_close(EdStores *stores)
{
    if (stores->memory)
        munmap(stores->memory, stores->size);
    free(stores->of);
    *stores = (EdStores){0};
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

void ed_store_row(const EdKernels *kernels, const EdStore *store, int head, int index,
                  const float *key, const float *value)
{
    size_t chunk = (size_t)head * (size_t)store->chunks + (size_t)(index / ED_CHUNK);
    int column = index % ED_CHUNK;
    uint16_t halves[2][ED_MOST_HEAD_DIM];
    int8_t bytes[2][ED_MOST_HEAD_DIM];
    if (store->kv_type == ED_KV_FP16) {
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

static size_t number_size(const EdStore *store)
{
    return store->kv_type == ED_KV_INT8 ? 1 : sizeof(uint16_t);
}

/* Numbers of one row, keys and values together, and its scales. */
static Sizes row_sizes(const EdStore *store)
{
    size_t heads = 2 * (size_t)store->heads;
    return (Sizes){heads * (size_t)store->head_dim * number_size(store),
                   store->kv_type == ED_KV_INT8 ? heads * sizeof(float) : 0};
}

size_t ed_row_bytes(const EdModel *model, int kv_type, int cross)
{
    size_t total = 0;
    for (int i = 0; i < model->spec.layers; i++) {
        EdStore store = shape_of(model, i, kv_type, 1, cross);
        total += row_sizes(&store).keys + row_sizes(&store).scales;
    }
    return total;
}

/* One row of one head, padded to the store's width with zeros. */
typedef union {
    uint16_t halves[2][ED_MOST_HEAD_DIM];
    int8_t bytes[2][ED_MOST_HEAD_DIM];
} Row;

static void get_row(const EdStore *store, size_t chunk, int column, Row *row)
{
    if (store->kv_type == ED_KV_INT8)
        get_bytes(store, chunk, column, row->bytes[0], row->bytes[1]);
    else
        get_halves(store, chunk, column, row->halves[0], row->halves[1]);
}

static void put_row(const EdStore *store, size_t chunk, int column, const Row *row)
{
    if (store->kv_type == ED_KV_INT8)
        put_bytes(store, chunk, column, row->bytes[0], row->bytes[1]);
    else
        put_halves(store, chunk, column, row->halves[0], row->halves[1]);
}

static unsigned char *part_of(Row *row, const EdStore *store, int part)
{
    return store->kv_type == ED_KV_INT8 ? (unsigned char *)row->bytes[part]
                                        : (unsigned char *)row->halves[part];
}

/* Where get and set are: every layer and head, numbers first, then scales. */
typedef struct {
    unsigned char *numbers;
    float *scales;
} Cursor;

/* Rows [0, count) of one layer and head from the store to the cursor, or back. */
static void carry(const EdStore *store, int head, int count, const Cursor *at, int back)
{
    size_t line = (size_t)store->head_dim * number_size(store);
    size_t values = (size_t)store->heads * (size_t)count;
    for (int i = 0; i < count; i++) {
        size_t chunk = (size_t)head * (size_t)store->chunks + (size_t)(i / ED_CHUNK);
        size_t place = (size_t)head * (size_t)count + (size_t)i;
        float *key_scale = &store->key_scales[chunk * ED_CHUNK + (size_t)(i % ED_CHUNK)];
        float *value_scale = &store->value_scales[chunk * ED_CHUNK + (size_t)(i % ED_CHUNK)];
        Row row;
        memset(&row, 0, sizeof row);
        if (!back)
            get_row(store, chunk, i % ED_CHUNK, &row);
        for (int part = 0; part < 2; part++) {
            unsigned char *outside = at->numbers + (place + (size_t)part * values) * line;
            unsigned char *inside = part_of(&row, store, part);
            memcpy(back ? inside : outside, back ? outside : inside, line);
        }
        if (back)
            put_row(store, chunk, i % ED_CHUNK, &row);
        if (store->kv_type != ED_KV_INT8)
            continue;
        memcpy(back ? key_scale : at->scales + place, back ? at->scales + place : key_scale, 4);
        memcpy(back ? value_scale : at->scales + place + values,
               back ? at->scales + place + values : value_scale, 4);
    }
}

static void carry_all(const EdStores *stores, int count, unsigned char *bytes, int back)
{
    size_t numbers = 0;
    Cursor at;
    for (int i = 0; i < stores->count; i++)
        numbers += row_sizes(&stores->of[i]).keys;
    at = (Cursor){bytes, (float *)(bytes + numbers * (size_t)count)};
    for (int i = 0; i < stores->count; i++) {
        const EdStore *store = &stores->of[i];
        size_t rows = 2 * (size_t)store->heads * (size_t)count;
        for (int head = 0; head < store->heads; head++)
            carry(store, head, count, &at, back);
        at.numbers += rows * (size_t)store->head_dim * number_size(store);
        at.scales += rows;
    }
}

void ed_stores_get(const EdStores *stores, int rows, void *bytes)
{
    carry_all(stores, rows, bytes, 0);
}

void ed_stores_set(const EdStores *stores, int rows, const void *bytes)
{
    carry_all(stores, rows, (unsigned char *)bytes, 1);
}

static void move_row(const EdStore *store, int head, int from, int to)
{
    size_t first = (size_t)head * (size_t)store->chunks;
    size_t source = (first + (size_t)(from / ED_CHUNK)) * ED_CHUNK + (size_t)(from % ED_CHUNK);
    size_t target = (first + (size_t)(to / ED_CHUNK)) * ED_CHUNK + (size_t)(to % ED_CHUNK);
    Row row;
    get_row(store, source / ED_CHUNK, from % ED_CHUNK, &row);
    put_row(store, target / ED_CHUNK, to % ED_CHUNK, &row);
    if (store->kv_type == ED_KV_INT8) {
        store->key_scales[target] = store->key_scales[source];
        store->value_scales[target] = store->value_scales[source];
    }
}

/* Downward and in order, no row is overwritten before it has moved. */
void ed_stores_move(const EdStores *stores, const int32_t *from, const int32_t *to, int count)
{
    for (int layer = 0; layer < stores->count; layer++)
        for (int head = 0; head < stores->of[layer].heads; head++)
            for (int i = 0; i < count; i++)
                move_row(&stores->of[layer], head, from[i], to[i]);
}
