/* Steps of a session, played from a file through the public header alone.
 *
 *   driver SPEC ENCODER DATA CASE KV THREADS SESSIONS ISA [CHANGES]
 *
 * Prints the instruction set and an FNV-1a hash of all logits, or "refused" and why. SESSIONS of
 * them run side by side on one model and must agree. CHANGES names numbers of the description to
 * overwrite, one run for each. ENCODER is empty where there is none. The files are written by
 * played.py.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgedec.h"

enum { END, STEP, MOVE, RESTORE, READ };
enum { VISIBLE = 1, VECTORS = 2 };
enum { MOST_SESSIONS = 8 };

/* A file in memory that is exactly as large as the file, so that a sanitizer sees its end. */
typedef struct {
    unsigned char *bytes;
    size_t size;
} File;

/* offset, bytes: a number in the description or, behind it, the encoder's; 0 bytes: the data end
 * after `value`. */
typedef struct {
    uint32_t offset, bytes;
    uint64_t value;
} Change;

typedef struct {
    EdModel *model, *encoder;
    const int32_t *next;
    EdSession *session;
    int kv_type, capacity, failed;
    uint64_t hash;
    char error[ED_ERROR_SIZE];
} Play;

static void stop(const char *why, const char *what)
{
    fprintf(stderr, "driver: %s %s\n", why, what);
    exit(2);
}

static void *reserve(size_t size)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, size ? size : 1))
        stop("no memory", "");
    return memory;
}

static File read_file(const char *path)
{
    File file;
    long size;
    FILE *from = fopen(path, "rb");
    if (!from || fseek(from, 0, SEEK_END) || (size = ftell(from)) < 0)
        stop("cannot read", path);
    file.size = (size_t)size;
    file.bytes = reserve(file.size);
    rewind(from);
    if (fread(file.bytes, 1, file.size, from) != file.size)
        stop("cannot read", path);
    fclose(from);
    return file;
}

static const void *take(Play *play, size_t bytes)
{
    const void *here = play->next;
    play->next += (bytes + 3) / 4;
    return here;
}

static const int32_t *integers(Play *play, int count)
{
    return take(play, (size_t)count * sizeof(int32_t));
}

static void add_to_hash(Play *play)
{
    for (int line = 0; line < ed_session_lines(play->session); line++) {
        const unsigned char *bytes = (const unsigned char *)ed_session_logits(play->session, line);
        for (size_t i = 0; i < ed_session_line(play->session); i++)
            play->hash = (play->hash ^ bytes[i]) * 0x100000001b3u;
    }
}

/* Asked as well, so that a sanitizer sees them; what they say is compared with the logits. */
static int check_best(Play *play)
{
    int lines = ed_session_lines(play->session), wrong = 0;
    int32_t *best = reserve((size_t)lines * sizeof *best);
    int32_t *ids = reserve((size_t)lines * 5 * sizeof *ids);
    float *values = reserve((size_t)lines * 5 * sizeof *values);
    ed_session_argmax(play->session, best);
    ed_session_topk(play->session, 5, ids, values);
    for (int line = 0; line < lines; line++) {
        const float *logits = ed_session_logits(play->session, line);
        /* Comparisons with NaN, which a wrong description may give, are false. */
        if (logits[0] == logits[0] && values[line * 5] == values[line * 5])
            wrong |= logits[best[line]] < values[line * 5];
    }
    free(best);
    free(ids);
    free(values);
    return wrong;
}

static int run_step(Play *play)
{
    const int32_t *sizes = integers(play, 8);
    int dim = ed_model_dim(play->model), status;
    EdStep step = {.rows = sizes[0],
                   .trunk = sizes[1],
                   .living = sizes[2],
                   .range_count = sizes[4],
                   .head_count = sizes[5],
                   .hidden_count = sizes[6]};
    size_t rows = (size_t)step.rows, hidden = (size_t)step.hidden_count * rows * (size_t)dim;
    if (sizes[7] != dim) {
        strcpy(play->error, "another width than the script's");
        return -1;
    }
    step.handles = integers(play, step.rows);
    step.positions = integers(play, step.rows);
    if (sizes[3] & VISIBLE)
        step.visible = take(play, rows * (size_t)step.living);
    if (sizes[3] & VECTORS)
        step.vectors = take(play, rows * (size_t)dim * sizeof(float));
    else
        step.tokens = integers(play, step.rows);
    step.ranges = integers(play, 2 * step.range_count);
    step.head_rows = integers(play, step.head_count);
    step.hidden_layers = integers(play, step.hidden_count);
    step.hidden = reserve(hidden * sizeof(float));
    status = ed_session_step(play->session, &step, play->error);
    free(step.hidden);
    if (!status)
        add_to_hash(play);
    return status ? status : check_best(play);
}

static int move(Play *play)
{
    int count = *integers(play, 1);
    const int32_t *from = integers(play, count), *to = integers(play, count);
    return ed_session_move(play->session, from, to, count, play->error);
}

/* What a fork or a saved session does; the source goes both ways. */
static int restore(Play *play)
{
    int count = *integers(play, 1), heard = ed_session_source_rows(play->session), status = 0;
    const int32_t *positions = integers(play, count);
    EdSession *old = play->session;
    void *rows = reserve(ed_session_bytes(old, count));
    void *source = reserve(ed_session_source_bytes(old, heard));
    ed_session_get(old, count, rows);
    ed_session_get_source(old, source);
    play->session = ed_session_open(play->model, play->kv_type, play->capacity, play->error);
    if (play->session) {
        ed_session_set(play->session, count, positions, rows);
        status = ed_session_share_source(play->session, old, play->error);
        if (heard && !status)
            status = ed_session_set_source(play->session, heard, source, play->error);
    }
    ed_session_close(old);
    free(rows);
    free(source);
    return play->session ? status : -1;
}

/* The encoder runs over a source, in a session of its own. */
static int read_source(Play *play)
{
    const int32_t *sizes = integers(play, 4);
    int rows = sizes[0], dim = ed_model_dim(play->model), status;
    int32_t *order = reserve((size_t)rows * sizeof *order);
    float *states = reserve((size_t)rows * (size_t)dim * sizeof *states);
    const int32_t range[2] = {0, sizes[3]};
    EdSession *reader = NULL;
    EdStep step = {.rows = rows,
                   .living = rows,
                   .handles = order,
                   .positions = order,
                   .ranges = range,
                   .range_count = 1,
                   .hidden_layers = &range[1],
                   .hidden_count = 1,
                   .hidden = states};
    for (int i = 0; i < rows; i++)
        order[i] = i;
    if (sizes[1] & VECTORS)
        step.vectors = take(play, (size_t)rows * (size_t)sizes[2] * sizeof(float));
    else
        step.tokens = integers(play, rows);
    strcpy(play->error, "another width than the script's");
    if (sizes[2] == dim && play->encoder && ed_model_dim(play->encoder) == dim)
        reader = ed_session_open(play->encoder, ED_KV_FP16, rows, play->error);
    status = reader ? ed_session_step(reader, &step, play->error) : -1;
    if (!status)
        status = ed_session_source(play->session, states, rows, play->error);
    if (reader)
        ed_session_close(reader);
    free(order);
    free(states);
    return status;
}

static void *play_all(void *argument)
{
    Play *play = argument;
    int kind;
    play->hash = 0xcbf29ce484222325u;
    play->capacity = *integers(play, 1);
    play->session = ed_session_open(play->model, play->kv_type, play->capacity, play->error);
    play->failed = !play->session;
    while (!play->failed && (kind = *integers(play, 1)) != END)
        play->failed = kind == STEP   ? run_step(play)
                       : kind == MOVE ? move(play)
                       : kind == READ ? read_source(play)
                                      : restore(play);
    if (play->session)
        ed_session_close(play->session);
    return NULL;
}

/* The model's head by itself, over a copy of the data that ends where the data end; embeddings. What
 * it says of a row beside others it must say of the row alone. */
static void check_head(EdModel *model, const File *spec, const File *data)
{
    enum { ROWS = 11, BEST = 3 };
    EdModelSpec read;
    EdLinearSpec head = {.scale = 1.0f};
    EdLinear *linear;
    char error[ED_ERROR_SIZE];
    int dim = ed_model_dim(model);
    float *x = reserve(ROWS * (size_t)dim * sizeof *x), *y, *alone, values[ROWS * BEST];
    int32_t ids[ROWS * BEST] = {0};
    memcpy(&read, spec->bytes, sizeof read);
    for (int i = 0; i < ROWS; i++)
        ids[i] = i % read.vocab;
    if (ed_model_embed(model, ids, ROWS, x, error))
        stop("no embedding:", error);
    head = (EdLinearSpec){read.head, read.final_norm, read.head_bias, read.head_scale,
                          read.head_softcap};
    linear = ed_linear_open(model, &head, data->bytes, data->size, error);
    if (linear) {
        size_t line = (size_t)ed_linear_outputs(linear);
        y = reserve(ROWS * line * sizeof *y);
        alone = reserve(line * sizeof *alone);
        ed_linear_run(linear, x, ROWS, y);
        ed_linear_run(linear, x + 9 * dim, 1, alone);
        if (memcmp(y + 9 * line, alone, line * sizeof *alone))
            stop("a row beside others", "differs");
        ed_linear_topk(linear, x, ROWS, BEST, ids, values);
        for (int i = 0; i < ROWS; i++)
            if (values[i * BEST] == values[i * BEST] && y[i * line] > values[i * BEST])
                stop("the best of a line", "is none");
        free(y);
        free(alone);
    }
    ed_linear_close(linear);
    free(x);
}

/* The files of a run, as main was given them. */
typedef struct {
    File spec, encoder, data, script;
} Files;

static void run(const Files *files, char **words)
{
    const File *spec = &files->spec, *data = &files->data;
    char error[ED_ERROR_SIZE] = "";
    int sessions = atoi(words[2]);
    const char *isa = strcmp(words[3], "best") ? words[3] : NULL;
    pthread_t threads[MOST_SESSIONS];
    Play plays[MOST_SESSIONS];
    EdModel *model =
        ed_model_open(spec->bytes, spec->size, data->bytes, data->size, isa, atoi(words[1]), error);
    EdModel *encoder = NULL;
    if (model && files->encoder.size)
        encoder = ed_model_beside(model, files->encoder.bytes, files->encoder.size, NULL, 0, error);
    if (!model || (files->encoder.size && !encoder)) {
        printf("refused: %s\n", error);
        ed_model_close(model);
        return;
    }
    for (int i = 0; i < sessions; i++) {
        plays[i] = (Play){.model = model,
                          .encoder = encoder,
                          .next = (const int32_t *)files->script.bytes,
                          .kv_type = atoi(words[0])};
        if (i && pthread_create(&threads[i], NULL, play_all, &plays[i]))
            stop("no thread", "");
    }
    check_head(model, &files->spec, &files->data);
    play_all(&plays[0]);
    for (int i = 1; i < sessions; i++) {
        pthread_join(threads[i], NULL);
        if (plays[i].hash != plays[0].hash)
            stop("sessions side by side", "differ");
    }
    if (plays[0].failed)
        printf("refused: a step: %s\n", plays[0].error);
    else
        printf("%s %016llx\n", ed_model_isa(model), (unsigned long long)plays[0].hash);
    ed_model_close(encoder);
    ed_model_close(model);
}

static File copy_of(const File *file, size_t size)
{
    File copy = {reserve(size), size};
    memcpy(copy.bytes, file->bytes, size);
    return copy;
}

static void run_changed(const Files *files, char **words, const Change *change)
{
    Files changed = *files;
    size_t end = files->spec.size, offset = change->offset;
    changed.spec = copy_of(&files->spec, end);
    changed.encoder = copy_of(&files->encoder, files->encoder.size);
    if (change->bytes)
        memcpy(offset < end ? changed.spec.bytes + offset : changed.encoder.bytes + offset - end,
               &change->value, change->bytes);
    else
        changed.data = copy_of(&files->data, (size_t)change->value);
    /* A sanitizer's report then stands below the change that brought it about. */
    printf("%u %u %llx ", change->offset, change->bytes, (unsigned long long)change->value);
    fflush(stdout);
    run(&changed, words);
    free(changed.spec.bytes);
    free(changed.encoder.bytes);
    if (!change->bytes)
        free(changed.data.bytes);
}

int main(int count, char **words)
{
    Files files;
    File changes;
    if (count < 9 || atoi(words[7]) > MOST_SESSIONS)
        stop("usage:", "driver SPEC ENCODER DATA CASE KV THREADS SESSIONS ISA [CHANGES]");
    files =
        (Files){read_file(words[1]), read_file(words[2]), read_file(words[3]), read_file(words[4])};
    if (count == 9) {
        run(&files, words + 5);
    } else {
        changes = read_file(words[9]);
        for (size_t i = 0; i < changes.size / sizeof(Change); i++)
            run_changed(&files, words + 5, (const Change *)changes.bytes + i);
        free(changes.bytes);
    }
    free(files.spec.bytes);
    free(files.encoder.bytes);
    free(files.data.bytes);
    free(files.script.bytes);
    return 0;
}
