/* Steps of a session, played from a file through the public header alone.
 *
 *   driver SPEC DATA CASE KV THREADS SESSIONS ISA [CHANGES]
 *
 * Prints the instruction set and an FNV-1a hash of all logits, or "refused" and why. SESSIONS of
 * them run side by side on one model and must agree. CHANGES names numbers of the description to
 * overwrite, one run for each. The files are written by played.py.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgedec.h"

enum { END, STEP, MOVE, RESTORE };
enum { VISIBLE = 1, VECTORS = 2 };
enum { MOST_SESSIONS = 8 };

/* A file in memory that is exactly as large as the file, so that a sanitizer sees its end. */
typedef struct {
    unsigned char *bytes;
    size_t size;
} File;

/* offset, bytes: a number in the description; 0 bytes: the data end after `value`. */
typedef struct {
    uint32_t offset, bytes;
    uint64_t value;
} Change;

typedef struct {
    EdModel *model;
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

/* What a fork or a saved session does. */
static int restore(Play *play)
{
    int count = *integers(play, 1);
    const int32_t *positions = integers(play, count);
    void *rows = reserve(ed_session_bytes(play->session, count));
    ed_session_get(play->session, count, rows);
    ed_session_close(play->session);
    play->session = ed_session_open(play->model, play->kv_type, play->capacity, play->error);
    if (play->session)
        ed_session_set(play->session, count, positions, rows);
    free(rows);
    return play->session ? 0 : -1;
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
        play->failed = kind == STEP ? run_step(play) : kind == MOVE ? move(play) : restore(play);
    if (play->session)
        ed_session_close(play->session);
    return NULL;
}

static void run(const File *spec, const File *data, const File *script, char **words)
{
    char error[ED_ERROR_SIZE] = "";
    int sessions = atoi(words[2]);
    const char *isa = strcmp(words[3], "best") ? words[3] : NULL;
    pthread_t threads[MOST_SESSIONS];
    Play plays[MOST_SESSIONS];
    EdModel *model =
        ed_model_open(spec->bytes, spec->size, data->bytes, data->size, isa, atoi(words[1]), error);
    if (!model) {
        printf("refused: %s\n", error);
        return;
    }
    for (int i = 0; i < sessions; i++) {
        plays[i] = (Play){
            .model = model, .next = (const int32_t *)script->bytes, .kv_type = atoi(words[0])};
        if (i && pthread_create(&threads[i], NULL, play_all, &plays[i]))
            stop("no thread", "");
    }
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
    ed_model_close(model);
}

static void run_changed(const File *spec, const File *data, const File *script, char **words,
                        const Change *change)
{
    File changed = {reserve(spec->size), spec->size}, cut = *data;
    memcpy(changed.bytes, spec->bytes, spec->size);
    if (change->bytes) {
        memcpy(changed.bytes + change->offset, &change->value, change->bytes);
    } else {
        cut.size = (size_t)change->value;
        cut.bytes = reserve(cut.size);
        memcpy(cut.bytes, data->bytes, cut.size);
    }
    /* A sanitizer's report then stands below the change that brought it about. */
    printf("%u %u %llx ", change->offset, change->bytes, (unsigned long long)change->value);
    fflush(stdout);
    run(&changed, &cut, script, words);
    free(changed.bytes);
    if (!change->bytes)
        free(cut.bytes);
}

int main(int count, char **words)
{
    File spec, data, script, changes;
    if (count < 8 || atoi(words[6]) > MOST_SESSIONS)
        stop("usage:", "driver SPEC DATA CASE KV THREADS SESSIONS ISA [CHANGES]");
    spec = read_file(words[1]);
    data = read_file(words[2]);
    script = read_file(words[3]);
    if (count == 8) {
        run(&spec, &data, &script, words + 4);
    } else {
        changes = read_file(words[8]);
        for (size_t i = 0; i < changes.size / sizeof(Change); i++)
            run_changed(&spec, &data, &script, words + 4, (const Change *)changes.bytes + i);
        free(changes.bytes);
    }
    free(spec.bytes);
    free(data.bytes);
    free(script.bytes);
    return 0;
}
