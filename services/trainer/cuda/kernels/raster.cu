// Compositing of the tiles' lists and its gradient.
//
// A block is a tile, a thread two pixels, one four rows below the other, a warp 8 x 8 pixels.
// For every 32 Gaussians of the list each lane tests one of them against the warp's pixels,
// and the warp visits only those that reach it: most Gaussians are smaller than a tile. What
// counts is the number of instructions: of a visit's, the sum over the warp is the larger part,
// so that a lane with two pixels makes half as many of the sums.

// Least a dx^2 + b dx dy + c dy^2 over a rectangle of pixel centres, exact: zero inside,
// otherwise on one of the edges that face the mean.
__device__ __forceinline__ float nearest_power(const Record& g, float x0, float y0, float x1, float y1) {
    const float left = x0 - g.x, right = x1 - g.x, top = y0 - g.y, bottom = y1 - g.y;
    const float ex = fmaxf(left, fminf(right, 0.0f)), ey = fmaxf(top, fminf(bottom, 0.0f));
    float best = 3.0e38f;
    if (ex != 0.0f) {
        const float y = fminf(fmaxf(-0.5f * g.b * ex * fast_reciprocal(g.c), top), bottom);
        best = g.a * ex * ex + g.b * ex * y + g.c * y * y;
    }
    if (ey != 0.0f) {
        const float x = fminf(fmaxf(-0.5f * g.b * ey * fast_reciprocal(g.a), left), right);
        best = fminf(best, g.a * x * x + g.b * x * ey + g.c * ey * ey);
    }
    return ex == 0.0f && ey == 0.0f ? 0.0f : best;
}

// Where a thread's pixels are. The k-th stands LANE_ROWS k rows below the first.
struct PixelPlace {
    int x, y;                          // the first pixel
    float warp_x0, warp_y0;            // centre of the warp's first pixel
};

__device__ __forceinline__ PixelPlace pixel_place() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_x = blockIdx.x * TILE + (warp % (TILE / WARP_WIDTH)) * WARP_WIDTH;
    const int warp_y = blockIdx.y * TILE + (warp / (TILE / WARP_WIDTH)) * WARP_HEIGHT;
    return {warp_x + lane % WARP_WIDTH, warp_y + lane / WARP_WIDTH, warp_x + 0.5f, warp_y + 0.5f};
}

// Each thread copies one record; what nobody reads of it becomes the place of its gradient.
__device__ __forceinline__ void load_batch(
    int first, int size, const int* sorted_gaussians, const float4* records, float4* shared
) {
    if ((int)threadIdx.x < size) {
        const int index = sorted_gaussians[first + threadIdx.x];
        const float4* from = records + (size_t)index * RECORD_FLOAT4S;
        float4* to = shared + threadIdx.x * RECORD_FLOAT4S;
        to[0] = from[0];
        to[1] = from[1];
        to[2] = make_float4(from[2].x, 0.0f, 0.0f, __int_as_float(index * GRADIENT_STRIDE));
    }
}

// Bit k of the answer: the batch's Gaussian base + k reaches this warp's pixels.
__device__ __forceinline__ uint32 reaching(const float4* shared, int base, int size, const PixelPlace& place) {
    const int mine = base + threadIdx.x % 32;
    bool reaches = false;
    if (mine < size) {
        const Record g = load_record(shared, mine);
        reaches = nearest_power(g, place.warp_x0, place.warp_y0, place.warp_x0 + (WARP_WIDTH - 1),
                                place.warp_y0 + (WARP_HEIGHT - 1)) <= reach_of(g);
    }
    return __ballot_sync(0xffffffffu, reaches);
}

// Log2 of a Gaussian's alpha down a column of pixels: start - dy (cross + c dy).
struct Column {
    float start, cross;
};

__device__ __forceinline__ Column column_of(const Record& g, float dx) {
    return {g.log_opacity - g.a * dx * dx, g.b * dx};
}

__device__ __forceinline__ float alpha_at(const Column& column, float c, float dy) {
    return fast_exp2(column.start - dy * (column.cross + c * dy));
}

__device__ __forceinline__ float behind(float transmittance, float alpha) {
    return fmaf(-transmittance, alpha, transmittance);
}

// Whether none of the transmittances is above zero: the thread's pixels are done.
__device__ __forceinline__ bool none_left(const float* transmittance) {
    bool none = true;
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) none = none && transmittance[k] <= 0.0f;
    return none;
}

// Writes the picture as three planes, [3, height, width].
extern "C" __global__ void __launch_bounds__(RASTER_THREADS) rasterize_forward(
    int width, int height, int tiles_x, const int2* __restrict__ ranges,
    const int* __restrict__ sorted_gaussians, const float4* __restrict__ records,
    const float* __restrict__ background, float* __restrict__ picture
) {
    __shared__ float4 shared[RASTER_THREADS * RECORD_FLOAT4S];
    const PixelPlace place = pixel_place();
    const int2 range = ranges[blockIdx.y * tiles_x + blockIdx.x];
    const float px = place.x + 0.5f, py = place.y + 0.5f;
    // A pixel that is done keeps its transmittance with a minus.
    float transmittance[PIXELS], red[PIXELS], green[PIXELS], blue[PIXELS];
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) {
        transmittance[k] = place.x < width && place.y + LANE_ROWS * k < height ? 1.0f : -1.0f;
        red[k] = green[k] = blue[k] = 0.0f;
    }
    bool all_done = none_left(transmittance);
    for (int first = range.x; first < range.y; first += RASTER_THREADS) {
        if (__syncthreads_count(all_done) == RASTER_THREADS) break;
        const int size = min(RASTER_THREADS, range.y - first);
        load_batch(first, size, sorted_gaussians, records, shared);
        __syncthreads();
        for (int base = 0; base < size && !__all_sync(0xffffffffu, all_done); base += 32) {
            uint32 mask = reaching(shared, base, size, place);
            while (mask) {
                const Record g = load_record(shared, base + __ffs(mask) - 1);
                mask &= mask - 1;
                const Column column = column_of(g, g.x - px);
#pragma unroll
                for (int k = 0; k < PIXELS; ++k) {
                    const float alpha = fminf(ALPHA_MAX, alpha_at(column, g.c, g.y - py - LANE_ROWS * k));
                    const float next = behind(transmittance[k], alpha);
                    const bool reached = alpha >= ALPHA_MIN, shows = reached && next >= TRANSMITTANCE_MIN;
                    if (reached && !shows) transmittance[k] = -fabsf(transmittance[k]);
                    if (!shows) continue;
                    const float weight = alpha * transmittance[k];
                    red[k] += weight * g.red;
                    green[k] += weight * g.green;
                    blue[k] += weight * g.blue;
                    transmittance[k] = next;
                }
            }
            all_done = none_left(transmittance);
        }
    }
    const int plane = width * height;
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) {
        const int y = place.y + LANE_ROWS * k, pixel = y * width + place.x;
        if (place.x >= width || y >= height) continue;
        const float left = fabsf(transmittance[k]);
        picture[pixel] = red[k] + left * background[0];
        picture[pixel + plane] = green[k] + left * background[1];
        picture[pixel + 2 * plane] = blue[k] + left * background[2];
    }
}

// What a lane's pixels add to a Gaussian's sums, s = alpha d loss / d alpha: the lane's pixels
// stand in one column, so that s dx, s dx^2 and s dx dy follow from these.
struct Sums {
    float s, sy, syy, red, green, blue;
};

// At each halving one half of the lanes keeps one value of a pair, the other half the other.
__device__ __forceinline__ float halved(float first, float second, bool keeps_second, int distance) {
    return (keeps_second ? second : first)
        + __shfl_xor_sync(0xffffffffu, keeps_second ? first : second, distance);
}

// Nine sums over a warp in nine shuffles: the four rows of lanes first, then, with dx, the columns.
// Lane ijklm (bits) ends with the sum that sum_slot names, 0 where it is another lane's.
__device__ __forceinline__ float sum_over_warp(const Sums& own, float dx, int lane) {
    const uint32 all = 0xffffffffu;
    const bool i = lane & 16, j = lane & 8, k = lane & 4, l = lane & 2;
    const float s_red = halved(own.s, own.red, i, 16), sy_green = halved(own.sy, own.green, i, 16);
    float third = halved(own.syy, own.blue, i, 16);
    const float one = halved(s_red, sy_green, j, 8);   // s, sy, red, green by row of lanes
    third += __shfl_xor_sync(all, third, 8);           // syy, syy, blue, blue
    const float one_dx = one * dx;
    const float two = i ? third : one_dx;              // s dx, sy dx, blue, blue
    float three = j ? third : one_dx * dx;             // s dx^2, syy
    const float pair = halved(one, two, k, 4);
    three += __shfl_xor_sync(all, three, 4);
    const float sum = halved(pair, three, l, 2);
    return sum + __shfl_xor_sync(all, sum, 1);
}

// Which sum a lane ends with: s, s dx, sy, s dx^2, sy dx, syy, red, green, blue; -1 for none.
__device__ __forceinline__ int sum_slot(int lane) {
    const int row = lane / 8, column = lane % 8;
    if (column & 1 || column == 6) return -1;
    const int k = column / 4 + 2 * (column == 2);      // one, two or three
    if (row == 0) return k == 0 ? 0 : k == 1 ? 1 : 3;
    if (row == 1) return k == 0 ? 2 : k == 1 ? 4 : 5;
    if (row == 2) return k == 0 ? 6 : k == 1 ? 8 : -1;
    return k == 0 ? 7 : -1;
}

// Gradient of the picture to sums by Gaussian, front to back. A pixel's state is its
// transmittance T, zero once it is done, and r = g . (colour still to come), g the picture's
// gradient there: d loss / d alpha_i = T_i g . c_i - r_after_i / (1 - alpha_i). The walk repeats
// the forward one, decisions included, so that nothing but the picture has to be kept of it.
extern "C" __global__ void __launch_bounds__(RASTER_THREADS) rasterize_backward(
    int width, int height, int tiles_x, const int2* __restrict__ ranges,
    const int* __restrict__ sorted_gaussians, const float4* __restrict__ records,
    const float* __restrict__ picture, const float* __restrict__ picture_gradient,
    float* __restrict__ record_gradients
) {
    __shared__ float4 shared[RASTER_THREADS * RECORD_FLOAT4S];
    const PixelPlace place = pixel_place();
    const int lane = threadIdx.x % 32;
    const int slot = sum_slot(lane);
    float* const gradients = record_gradients + max(slot, 0);
    const int2 range = ranges[blockIdx.y * tiles_x + blockIdx.x];
    const float px = place.x + 0.5f, py = place.y + 0.5f;
    float transmittance[PIXELS], gr[PIXELS], gg[PIXELS], gb[PIXELS], remaining[PIXELS];
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) {
        const int y = place.y + LANE_ROWS * k, pixel = y * width + place.x, plane = width * height;
        const bool inside = place.x < width && y < height;
        transmittance[k] = inside ? 1.0f : 0.0f;
        gr[k] = inside ? picture_gradient[pixel] : 0.0f;
        gg[k] = inside ? picture_gradient[pixel + plane] : 0.0f;
        gb[k] = inside ? picture_gradient[pixel + 2 * plane] : 0.0f;
        remaining[k] = inside ? gr[k] * picture[pixel] + gg[k] * picture[pixel + plane]
                                + gb[k] * picture[pixel + 2 * plane] : 0.0f;
    }
    bool all_done = none_left(transmittance);
    for (int first = range.x; first < range.y; first += RASTER_THREADS) {
        if (__syncthreads_count(all_done) == RASTER_THREADS) break;
        const int size = min(RASTER_THREADS, range.y - first);
        load_batch(first, size, sorted_gaussians, records, shared);
        __syncthreads();
        for (int base = 0; base < size && !__all_sync(0xffffffffu, all_done); base += 32) {
            uint32 mask = reaching(shared, base, size, place);
            while (mask) {
                const int mine = base + __ffs(mask) - 1;
                mask &= mask - 1;
                const Record g = load_record(shared, mine);
                const float dx = g.x - px;
                const Column column = column_of(g, dx);
                float alpha[PIXELS], next[PIXELS];
                bool counts = false;
#pragma unroll
                for (int k = 0; k < PIXELS; ++k) {
                    const float raw = alpha_at(column, g.c, g.y - py - LANE_ROWS * k);
                    next[k] = behind(transmittance[k], fminf(ALPHA_MAX, raw));
                    const bool reached = raw >= ALPHA_MIN, shows = reached && next[k] >= TRANSMITTANCE_MIN;
                    if (reached && !shows) transmittance[k] = 0.0f;
                    if (!shows) next[k] = transmittance[k];
                    alpha[k] = shows ? raw : 0.0f;
                    counts = counts || shows;
                }
                if (!__any_sync(0xffffffffu, counts)) continue;
                // No branches: an alpha of zero adds nothing by itself.
                Sums sum = {0, 0, 0, 0, 0, 0};
#pragma unroll
                for (int k = 0; k < PIXELS; ++k) {
                    const float dy = g.y - py - LANE_ROWS * k, shown = fminf(ALPHA_MAX, alpha[k]);
                    const float weight = shown * transmittance[k];
                    const float shade = gr[k] * g.red + gg[k] * g.green + gb[k] * g.blue;
                    remaining[k] -= weight * shade;
                    sum.red += weight * gr[k];
                    sum.green += weight * gg[k];
                    sum.blue += weight * gb[k];
                    const float all_of_s = weight * shade - shown * remaining[k] * fast_reciprocal(1.0f - shown);
                    const float s = alpha[k] > ALPHA_MAX ? 0.0f : all_of_s;
                    sum.s += s;
                    sum.sy += s * dy;
                    sum.syy += s * dy * dy;
                    transmittance[k] = next[k];
                }
                const float total = sum_over_warp(sum, dx, lane);
                const int at = __float_as_int(shared[mine * RECORD_FLOAT4S + 2].w);
                if (slot >= 0) atomicAdd(gradients + at, total);
            }
            all_done = none_left(transmittance);
        }
    }
}
