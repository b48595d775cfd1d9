/* edgedec's CPU engine: one call runs a whole step of a model over n rows.
 *
 * The only public header. The engine knows numbers, not texts: no tokenizer, no sampling, no
 * strategy, no Python. A model is a flat description (EdModelSpec, its EdRopes, its EdLayers) and
 * one block of memory that holds all tensors; offsets in the description count from the beginning
 * of that block. Nothing is copied from it, so a memory-mapped file is used as it lies.
 *
 * A decoder with cross-attention reads the rows of a source, which an encoder makes: a model of its
 * own over the same block of memory, whose steps are whole sources.
 *
 * A session is a trunk of rows, numbered from 0, and living rows behind it: the row with handle h
 * lies at index trunk + h. Every function that can fail returns 0 for success and puts a sentence
 * into the buffer `error` otherwise. A session is used by one thread at a time; several sessions of
 * one model may be used at once.
 *
 * Packed matrices: 16 outputs make a tile. A tile holds, block of inputs by block, for each group
 * of 4 inputs 64 bytes: 4 inputs of output 0, 4 of output 1, ... Eight-bit weights are signed,
 * -127..127. Four-bit weights are 0..15 with zero point 8, and 64 bytes hold two groups: the low
 * halves the even one, the high halves the odd one. Scales are fp16, 16 for each block of a tile.
 * Outputs are padded to 16 and inputs to whole blocks, with zeros.
 */
#ifndef EDGEDEC_H
#define EDGEDEC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ED_SPEC_VERSION 2u
#define ED_ERROR_SIZE 256

enum { ED_NORM_NONE = 0, ED_NORM_RMS = 1, ED_NORM_LAYER = 2 };
enum { ED_PRE = 0, ED_POST = 1, ED_SANDWICH = 2, ED_PARALLEL = 3 };
enum { ED_SILU = 0, ED_GELU = 1, ED_GELU_TANH = 2, ED_RELU = 3 };
enum { ED_KV_FP16 = 0, ED_KV_INT8 = 1 };

/* A packed matrix [outputs, inputs]; weight 0 means that there is none. Offsets are multiples of
 * 64. bits: 4 or 8; block: 32, 64 or 128. */
typedef struct {
    uint64_t weight, scales;
    int32_t outputs, inputs, bits, block;
} EdMatrix;

/* fp32 vectors, padded with zeros to a multiple of 16; offset 0 means that there is none. */
typedef struct {
    uint64_t weight, bias;
    int32_t kind;
    float eps;
} EdNorm;

/* fp64 radians per position, [pairs]. interleaved: pairs are neighbours, else half a turn apart. */
typedef struct {
    uint64_t frequencies;
    double magnitude;
    int32_t pairs, interleaved;
} EdRope;

/* window 0: all keys, else those at a distance below it; softcap 0: none; rope -1: none.
 * distance_bias: fp32 [heads, distances] added to scores, for the key's position less the query's
 * from -origin on; beyond either end the bias is that of the end. */
typedef struct {
    EdMatrix q, k, v, o;
    EdNorm q_norm, k_norm;
    uint64_t q_bias, k_bias, v_bias, o_bias, distance_bias;
    int32_t heads, kv_heads, head_dim, rope, window, distances, origin;
    float scale, softcap;
} EdAttention;

/* own: among the rows; cross: to the rows of a source, with neither rope, window nor distances;
 * cross.q.weight 0: none. gate.weight 0: not gated. */
typedef struct {
    EdNorm attention_norm, attention_post_norm, cross_norm, cross_post_norm, mlp_norm,
        mlp_post_norm;
    EdAttention own, cross;
    EdMatrix gate, up, down;
    uint64_t gate_bias, up_bias, down_bias;
    int32_t norm_order, activation;
} EdLayer;

/* positions: fp32 [position_rows, dim padded to 16], read at position + position_offset. head is
 * the embedding again where they are tied. source_norm: what cross-attention's keys and values see
 * the source through. encoder 1: every row sees every row, there is no head, and with a vocab of 0
 * no embedding either. */
typedef struct {
    uint32_t version, layer_size;
    int32_t layers, ropes, dim, vocab, context, position_rows, position_offset, encoder;
    EdMatrix embed, head;
    uint64_t head_bias, positions;
    EdNorm embed_norm, final_norm, source_norm;
    float embed_scale, head_scale, head_softcap, padding;
} EdModelSpec;

typedef struct EdModel EdModel;
typedef struct EdSession EdSession;

/* spec: an EdModelSpec, then its EdRopes, then its EdLayers. data must outlive the model and be
 * aligned to 64 bytes. isa: the name of an instruction set, or NULL for the best one here. */
EdModel *ed_model_open(const void *spec, size_t spec_size, const void *data, size_t data_size,
                       const char *isa, int threads, char *error);
/* A second model with the instruction set and the threads of the first, over data of its own or,
 * where that is NULL, over the first one's; it must be closed before the first. */
EdModel *ed_model_beside(EdModel *model, const void *spec, size_t spec_size, const void *data,
                         size_t data_size, char *error);
void ed_model_close(EdModel *model);
const char *ed_model_isa(const EdModel *model);
int ed_model_dim(const EdModel *model);
/* What ids enter layer 0 as, scaled, without positions and norm: [count, dim]. */
int ed_model_embed(const EdModel *model, const int32_t *ids, int count, float *vectors,
                   char *error);

/* One matrix by itself: y = softcap(scale * (norm(x) W^T + bias)). Its inputs are a multiple of
 * 16; the norm is over them. */
typedef struct {
    EdMatrix matrix;
    EdNorm norm;
    uint64_t bias;
    float scale, softcap;
} EdLinearSpec;

typedef struct EdLinear EdLinear;

/* Beside a model, as `ed_model_beside`. Used by one thread at a time. */
EdLinear *ed_linear_open(EdModel *model, const EdLinearSpec *spec, const void *data,
                         size_t data_size, char *error);
void ed_linear_close(EdLinear *linear);
int ed_linear_inputs(const EdLinear *linear);
int ed_linear_outputs(const EdLinear *linear);
/* y [rows, outputs] of x [rows, inputs], with the same bits whatever rows stand beside a row. */
void ed_linear_run(EdLinear *linear, const float *x, int rows, float *y);
/* The k (1 to outputs) largest of each line of y, largest first, of equal ones the smaller id. */
void ed_linear_topk(EdLinear *linear, const float *x, int rows, int k, int32_t *ids,
                    float *values);

/* The instruction sets that this machine can run, best first; NULL ends the list. */
const char *const *ed_isas(void);

/* capacity: the largest number of rows, trunk and living together. Memory is touched as rows come.
 * The model must outlive its sessions. */
EdSession *ed_session_open(EdModel *model, int kv_type, int capacity, char *error);
void ed_session_close(EdSession *session);
int ed_session_capacity(const EdSession *session);

/* The rows of one step. */
typedef struct {
    int32_t rows;             /* n, at least 1 */
    int32_t trunk;            /* rows of the trunk; none in an encoder */
    int32_t living;           /* living rows, those of this step included: all, in an encoder */
    const int32_t *handles;   /* [n], rising */
    const int32_t *positions; /* [n] */
    const uint8_t *visible;   /* [n, living] living rows that a row sees, itself included;
                                 NULL: those up to itself, or in an encoder all */
    const int32_t *tokens;    /* [n], or NULL where the rows enter as vectors */
    const float *vectors;     /* [n, dim] embeddings (before layer 0) or hidden states */
    const float *learned;     /* [learned_count, dim] embeddings of the ids from vocab on */
    int32_t learned_count;
    const int32_t *ranges; /* [range_count, 2] layers first, last + 1, rising */
    int32_t range_count;
    const int32_t *head_rows; /* [head_count] rows of the step that get logits */
    int32_t head_count;
    const int32_t *hidden_layers; /* [hidden_count] layers whose outputs are wanted, rising */
    int32_t hidden_count;
    float *hidden; /* [hidden_count, n, dim] where they go; 0 is the embedding */
} EdStep;

/* Keys and values of the rows are stored, the trunk does not change. Fails without having computed
 * anything, or not at all. */
int ed_session_step(EdSession *session, const EdStep *step, char *error);

/* Of the latest step, by line m of its head_rows. Logits [vocab] are valid until the next step. */
int ed_session_lines(const EdSession *session);
size_t ed_session_line(const EdSession *session); /* bytes of one line */
const float *ed_session_logits(const EdSession *session, int line);
void ed_session_argmax(EdSession *session, int32_t *best);
/* The k largest logits of each line, largest first, of equal ones the smaller id: [lines, k]. */
void ed_session_topk(EdSession *session, int k, int32_t *ids, float *values);

/* Row from[i] becomes row to[i]; both rise, and no row moves up. */
int ed_session_move(EdSession *session, const int32_t *from, const int32_t *to, int count,
                    char *error);

/* Keys and values of rows [0, count) as bytes, and back: [layer][key, value][kv head][row][dim]
 * numbers, with 8 bit followed by fp32 scales [layer][key, value][kv head][row]. */
size_t ed_session_bytes(const EdSession *session, int count);
void ed_session_get(const EdSession *session, int count, void *bytes);
void ed_session_set(EdSession *session, int count, const int32_t *positions, const void *bytes);

/* Give a session the source that it reads from now on: vectors [rows, dim], the last hidden states
 * of an encoder. Keys and values of all cross-attention are computed and kept; 0 rows: none. What
 * the session held before stays where it fails. A source is computed once: sessions of one model
 * and one type of keys and values can share it. */
int ed_session_source(EdSession *session, const float *vectors, int rows, char *error);
int ed_session_share_source(EdSession *session, const EdSession *from, char *error);
int ed_session_source_rows(const EdSession *session);

/* The source's keys and values as bytes, and back; as those of rows. */
size_t ed_session_source_bytes(const EdSession *session, int rows);
void ed_session_get_source(const EdSession *session, void *bytes);
int ed_session_set_source(EdSession *session, int rows, const void *bytes, char *error);

#ifdef __cplusplus
}
#endif
#endif
