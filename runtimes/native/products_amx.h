/* Products of many rows with AMX: 16 rows by 16 outputs over 64 inputs in one instruction.
 *
 * The packed layout is the one that tiles want, but for the halves of bytes: those of some blocks
 * are unpacked to memory once for all rows of a call. Sums of a block go through memory as well and
 * are added as everywhere, which takes most of the time. Few rows are left to products over lanes.
 *
 * Tile instructions are assembly: gcc 12 miscompiles its own configuration of tiles and does not
 * know that loading one reads memory. Tiles 0, 1 and 4 are sums and rows of whole groups, 2, 3 and
 * 5 those of the last group, 6 and 7 weights.
 */
#ifndef ED_PRODUCTS_AMX_H
#define ED_PRODUCTS_AMX_H

#define ED_AT_ONCE 64
/* Fewer rows than these are quicker over lanes, measured in whole steps: 8 took 15 % longer with
 * tiles, 10 as long, 14 a tenth less. */
#define ED_TILE_ROWS 10
/* Blocks whose weights and sums stay in the first-level cache, and bytes of one. Sums lie 2048
 * bytes behind weights: a load waits for an earlier store with the same last 12 bits of address. */
#define ED_BLOCKS 5
#define ED_SLOT(block) ((block) > 64 ? 6144 : 4096)

/* What tells the processor how large each tile is. */
typedef struct {
    uint8_t palette, start, none[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} Tiles;

#define TILE_LOAD(tile, from, stride)                                                     \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), "r"((size_t)(stride)) \
                     : "memory")
#define TILE_STORE(tile, to) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"((size_t)64) : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define TILE_DOT(sums, rows, weights) \
    __asm__ volatile("tdpbssd %%tmm" #weights ", %%tmm" #rows ", %%tmm" #sums ::)

static void begin(int rows, int block)
{
    int tail = rows % ED_GROUP, inputs = block < 64 ? block : 64;
    Tiles tiles = {.palette = 1};
    if (rows < ED_TILE_ROWS)
        return;
    for (int i = 0; i < 8; i++) {
        tiles.rows[i] = i == 2 || i == 3 || i == 5 ? (uint8_t)(tail ? tail : 16) : 16;
        tiles.bytes[i] = 64;
    }
    tiles.bytes[4] = tiles.bytes[5] = (uint16_t)inputs;
    tiles.rows[6] = tiles.rows[7] = (uint8_t)(inputs / 4);
    __asm__ volatile("ldtilecfg %0" ::"m"(tiles));
}

static void end(int rows)
{
    if (rows >= ED_TILE_ROWS)
        __asm__ volatile("tilerelease" ::);
}

/* Halves of bytes as signed bytes, the zero point taken off: 64 bytes become 2 lines of 64. */
ED_INLINE void unpack_lines(const uint8_t *from, uint8_t *to, int lines)
{
    /* Bits 0 to 2 as they are, the inverse of bit 3 in all others: as a matrix over bits, highest
     * byte first, for the high halves; as a table of 64 bytes for the low ones. */
    const __m512i high = _mm512_set1_epi64(0x1020408080808080);
    const __m512i low = _mm512_broadcast_i32x4(
        _mm_set_epi8(7, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3, -4, -5, -6, -7, -8));
    for (int i = 0; i < lines; i++, from += 64, to += 128) {
        __m512i both = _mm512_loadu_si512(from);
        _mm512_storeu_si512(to, _mm512_permutexvar_epi8(both, low));
        _mm512_storeu_si512(to + 64, _mm512_gf2p8affine_epi64_epi8(both, high, 0xf8));
    }
}

/* Some blocks of a tile pair: their weights as tiles read them, `step` bytes from one block to the
 * next, and where their sums go, `slot` integers from one to the next. */
typedef struct {
    const uint8_t *weights[2];
    const uint16_t *scales[2];
    size_t step, slot;
    int32_t *sums;
    int count, chunks, start; /* start: whether they are the first blocks of all */
    uintptr_t next[2];        /* what will be read next, and lines of 64 bytes of it for a block */
    int lines;
} Range;

/* Weights come from memory while tiles are multiplied, so a few at a time. */
ED_INLINE void ask_for_block(const Range *range, int block)
{
    size_t at = 64 * (size_t)(block * range->lines);
    for (int i = 0; i < range->lines; i++, at += 64) {
        ED_ASK_FOR(range->next[0] + at);
        ED_ASK_FOR(range->next[1] + at);
    }
}

/* The sums of one block for all outputs of the pair; those of the block before go to memory once
 * the loads are on their way. */
ED_INLINE void sums_of_block(const Range *range, int block, const int8_t *x, int32_t *before,
                             const int whole)
{
    const uint8_t *first = range->weights[0] + (size_t)block * range->step;
    const uint8_t *second = range->weights[1] + (size_t)block * range->step;
    size_t stride = 32 * (size_t)range->chunks;
#define ED_BLOCK(a, b, rows)                 \
    TILE_LOAD(rows, x, stride);              \
    TILE_LOAD(6, first, 64);                 \
    TILE_LOAD(7, second, 64);                \
    if (before) {                            \
        TILE_STORE(a, before);               \
        TILE_STORE(b, before + 256);         \
    }                                        \
    TILE_ZERO(a);                            \
    TILE_DOT(a, rows, 6);                    \
    TILE_ZERO(b);                            \
    TILE_DOT(b, rows, 7);                    \
    if (range->chunks == 4) {                \
        TILE_LOAD(rows, x + 64, stride);     \
        TILE_LOAD(6, first + 1024, 64);      \
        TILE_LOAD(7, second + 1024, 64);     \
        TILE_DOT(a, rows, 6);                \
        TILE_DOT(b, rows, 7);                \
    }
    if (whole) {
        ED_BLOCK(0, 1, 4)
    } else {
        ED_BLOCK(2, 3, 5)
    }
#undef ED_BLOCK
}

/* One block's sums join the totals of R rows. */
ED_INLINE void join_block(const int32_t *sums, const uint16_t *scales, const float *row_scales,
                          Vf *total, const int R)
{
    Vf weight_scale = vf_load_half(scales);
    for (int r = 0; r < R; r++) {
        Vf both = vf_mul(weight_scale, vf_set1(row_scales[r]));
        total[r] = vf_fma(vf_from_vi(vi_load(sums + 16 * r)), both, total[r]);
    }
}

ED_INLINE void open_totals(const Range *range, const float *out, Vf *total, const int R)
{
    for (int r = 0; r < R; r++)
        total[r] = range->start ? vf_set1(0.0f) : vf_load(out + r * ED_PAIR);
}

ED_INLINE void close_totals(float *out, const Vf *total, const int R)
{
    for (int r = 0; r < R; r++)
        vf_store(out + r * ED_PAIR, total[r]);
}

/* A group of R rows. The first tile's sums are joined while tiles are multiplied; the second's
 * later, when floats have all their units again. */
ED_INLINE void range_of_group(const Range *range, const int8_t *x, const float *scales, float *out,
                              const int R)
{
    const size_t line = (size_t)R * 32 * (size_t)range->chunks, slot = range->slot;
    int32_t *sums = range->sums;
    Vf total[ED_GROUP];
    open_totals(range, out, total, R);
    sums_of_block(range, 0, x, NULL, R == ED_GROUP);
    ask_for_block(range, 0);
    for (int b = 1; b < range->count; b++) {
        ask_for_block(range, b);
        sums_of_block(range, b, x + b * line, sums, R == ED_GROUP);
        join_block(sums, range->scales[0] + 16 * (b - 1), scales + R * (b - 1), total, R);
        sums += slot;
    }
    if (R == ED_GROUP) {
        TILE_STORE(0, sums);
        TILE_STORE(1, sums + 256);
    } else {
        TILE_STORE(2, sums);
        TILE_STORE(3, sums + 256);
    }
    join_block(sums, range->scales[0] + 16 * (range->count - 1), scales + R * (range->count - 1),
               total, R);
    close_totals(out, total, R);
    open_totals(range, out + 16, total, R);
    sums = range->sums + 256;
    for (int b = 0; b < range->count; b++, sums += slot)
        join_block(sums, range->scales[1] + 16 * b, scales + R * b, total, R);
    close_totals(out + 16, total, R);
}

#define ED_ROWS(R)                                \
    case R:                                       \
        range_of_group(range, x, scales, out, R); \
        break;

static void range_of_rows(const Range *range, int rows, const int8_t *x, const float *scales,
                          float *out)
{
    switch (rows) {
        ED_ROWS(1)
        ED_ROWS(2)
        ED_ROWS(3)
        ED_ROWS(4)
        ED_ROWS(5)
        ED_ROWS(6)
        ED_ROWS(7)
        ED_ROWS(8)
        ED_ROWS(9)
        ED_ROWS(10)
        ED_ROWS(11)
        ED_ROWS(12)
        ED_ROWS(13)
        ED_ROWS(14)
        ED_ROWS(15)
        ED_ROWS(16)
    }
}

/* The weights of a range's blocks, from block `first` on. */
ED_INLINE void open_range(Range *range, const EdTile *pair, int first, uint8_t *scratch,
                          const int bits)
{
    size_t block = 32 * (size_t)range->chunks, size = 16 * block;
    for (int t = 0; t < 2; t++) {
        const uint8_t *from = pair[t].weights + (size_t)first * size * (size_t)bits / 8;
        range->scales[t] = pair[t].scales + 16 * first;
        range->next[t] = (uintptr_t)from + pair[t].ahead;
        range->weights[t] = bits == 8 ? from : scratch + (size_t)t * size;
        for (int b = 0; bits == 4 && b < range->count; b++, from += size / 2)
            unpack_lines(from, scratch + (size_t)t * size + (size_t)b * range->step,
                         (int)(size / 128));
    }
}

ED_INLINE void tile_products(const EdTile *pair, const EdRows *groups, int rows, int blocks,
                             int chunks, float *out, const int bits)
{
    _Alignas(64) uint8_t scratch[ED_BLOCKS * ED_SLOT(128)];
    size_t slot = ED_SLOT(32 * chunks), sums = slot - 2048;
    int parts = (blocks + ED_BLOCKS - 1) / ED_BLOCKS, most = (blocks + parts - 1) / parts;
    Range range = {.step = bits == 8 ? 512 * (size_t)chunks : slot,
                   .slot = slot / 4,
                   .sums = (int32_t *)(void *)(scratch + sums),
                   .chunks = chunks};
    for (int first = 0; first < blocks; first += most) {
        range.count = blocks - first < most ? blocks - first : most;
        range.start = !first;
        range.lines = bits * chunks;
        open_range(&range, pair, first, scratch, bits);
        for (int row = 0; row < rows; row += ED_GROUP) {
            const EdRows *group = groups + row / ED_GROUP;
            int n = rows - row < ED_GROUP ? rows - row : ED_GROUP;
            range_of_rows(&range, n, group->values + (size_t)(32 * chunks) * (size_t)(n * first),
                          group->scales + n * first, out + row * ED_PAIR);
            range.lines = 0;
        }
    }
}

ED_INLINE void product_many(const EdTile *pair, const EdRows *groups, int rows, int blocks,
                            int chunks, float *out, const int bits)
{
    if (rows < ED_TILE_ROWS)
        product(pair, &(Part){groups, rows, 0, blocks, chunks}, out, bits);
    else
        tile_products(pair, groups, rows, blocks, chunks, out, bits);
}

static void product4(const EdTile *pair, const EdRows *groups, int rows, int blocks, int chunks,
                     float *out)
{
    product_many(pair, groups, rows, blocks, chunks, out, 4);
}

static void product8(const EdTile *pair, const EdRows *groups, int rows, int blocks, int chunks,
                     float *out)
{
    product_many(pair, groups, rows, blocks, chunks, out, 8);
}

#endif
