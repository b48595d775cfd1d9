/* The functions of kernels.h over the lanes that were included before, as the table ED_TABLE. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels.h"

#include "angles.h"
#include "maths.h"
#include "rowwise.h"
#include "products.h"
#include "mixes.h"
#include "softmax.h"

const EdKernels ED_TABLE = {
    .name = ED_NAME,
    .at_once = ED_AT_ONCE,
    .begin = ED_BEGIN,
    .end = ED_END,
    .product4 = product4,
    .product8 = product8,
    .mix = mix,
    .mix_bytes = mix_bytes,
    .quantise = quantise,
    .quantise_rows = quantise_rows,
    .norm = norm,
    .spread = spread,
    .normalise = normalise,
    .add = add,
    .scale = scale,
    .soften = soften,
    .activate = activate,
    .gate_rows = gate_rows,
    .put_rows = put_rows,
    .add_rows = add_rows,
    .turn = turn,
    .rotate = rotate,
    .from_sums = from_sums,
    .to_half = to_half,
    .to_bytes = to_bytes,
    .weigh = weigh,
    .soft = soft,
    .soft_bytes = soft_bytes,
    .meet = meet,
    .join = join,
    .add_value = add_value,
    .largest = largest_of,
    .argmax = argmax,
};
