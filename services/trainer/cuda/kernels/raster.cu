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
        const float y = fminf(fmaxf(-0.5f * g.b * ex / g.c, top), bottom);
        best = g.a * ex * ex + g.b * ex * y + g.c * y * y;
    }
    if (ey != 0.0f) {
        const float x = fminf(fmaxf(-0.5f * g.b * ey / g.a, left), right);
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

__device__ __forceinline__ void load_batch(
    int first, int size, const int* sorted_gaussians, const float4* records, float4* shared, int* indices
) {
    if ((int)threadIdx.x < size) {
        const int index = sorted_gaussians[first + threadIdx.x];
        indices[threadIdx.x] = index;
        for (int k = 0; k < RECORD_FLOAT4S; ++k)
            shared[threadIdx.x * RECORD_FLOAT4S + k] = records[index * RECORD_FLOAT4S + k];
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

__device__ __forceinline__ bool all_of(const bool* done) {
    bool all = true;
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) all = all && done[k];
    return all;
}

__device__ __forceinline__ bool is_zero(const float* transmittance) {
    bool zero = true;
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) zero = zero && transmittance[k] == 0.0f;
    return zero;
}

// Writes the picture as three planes, [3, height, width].
extern "C" __global__ void __launch_bounds__(RASTER_THREADS) rasterize_forward(
    int width, int height, int tiles_x, const int2* __restrict__ ranges,
    const int* __restrict__ sorted_gaussians, const float4* __restrict__ records,
    const float* __restrict__ background, float* __restrict__ picture
) {
    __shared__ float4 shared[RASTER_THREADS * RECORD_FLOAT4S];
    __shared__ int indices[RASTER_THREADS];
    const PixelPlace place = pixel_place();
    const int2 range = ranges[blockIdx.y * tiles_x + blockIdx.x];
    const float px = place.x + 0.5f, py = place.y + 0.5f;
    float transmittance[PIXELS], red[PIXELS], green[PIXELS], blue[PIXELS];
    bool done[PIXELS];
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) {
        transmittance[k] = 1.0f;
        red[k] = green[k] = blue[k] = 0.0f;
        done[k] = place.x >= width || place.y + LANE_ROWS * k >= height;
    }
    bool all_done = all_of(done);
    for (int first = range.x; first < range.y; first += RASTER_THREADS) {
        if (__syncthreads_count(all_done) == RASTER_THREADS) break;
        const int size = min(RASTER_THREADS, range.y - first);
        load_batch(first, size, sorted_gaussians, records, shared, indices);
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
                    if (done[k] || alpha < ALPHA_MIN) continue;
                    const float next = transmittance[k] - transmittance[k] * alpha;
                    if (next < TRANSMITTANCE_MIN) { done[k] = true; continue; }
                    const float weight = alpha * transmittance[k];
                    red[k] += weight * g.red;
                    green[k] += weight * g.green;
                    blue[k] += weight * g.blue;
                    transmittance[k] = next;
                }
            }
            all_done = all_of(done);
        }
    }
    const int plane = width * height;
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) {
        const int y = place.y + LANE_ROWS * k, pixel = y * width + place.x;
        if (place.x >= width || y >= height) continue;
        picture[pixel] = red[k] + transmittance[k] * background[0];
        picture[pixel + plane] = green[k] + transmittance[k] * background[1];
        picture[pixel + 2 * plane] = blue[k] + transmittance[k] * background[2];
    }
}

// Sums nine values over a warp in twelve shuffles: at each halving, one half of the lanes
// keeps one value of a pair and the other half the other. Afterwards the lanes with
// (lane & 3) == 0 hold value ((lane >> 4) & 1) + 2 ((lane >> 3) & 1) + 4 ((lane >> 2) & 1),
// and those with (lane & 3) == 2 the ninth.
__device__ __forceinline__ float sum_nine(const float* v, int lane) {
    const uint32 all = 0xffffffffu;
    const bool b4 = lane & 16, b3 = lane & 8, b2 = lane & 4, b1 = lane & 2;
    float u[4];
#pragma unroll
    for (int k = 0; k < 4; ++k)
        u[k] = (b4 ? v[2 * k + 1] : v[2 * k]) + __shfl_xor_sync(all, b4 ? v[2 * k] : v[2 * k + 1], 16);
    float ninth = v[8] + __shfl_xor_sync(all, v[8], 16);
    const float w0 = (b3 ? u[1] : u[0]) + __shfl_xor_sync(all, b3 ? u[0] : u[1], 8);
    const float w1 = (b3 ? u[3] : u[2]) + __shfl_xor_sync(all, b3 ? u[2] : u[3], 8);
    ninth += __shfl_xor_sync(all, ninth, 8);
    const float z = (b2 ? w1 : w0) + __shfl_xor_sync(all, b2 ? w0 : w1, 4);
    ninth += __shfl_xor_sync(all, ninth, 4);
    float y = (b1 ? ninth : z) + __shfl_xor_sync(all, b1 ? z : ninth, 2);
    y += __shfl_xor_sync(all, y, 1);
    return y;
}

// What the sums over a Gaussian's pixels are made of; see gaussian_backward.
struct Sums {
    float s, sy, syy, red, green, blue;
};

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
    __shared__ int indices[RASTER_THREADS];
    const PixelPlace place = pixel_place();
    const int lane = threadIdx.x % 32;
    const int slot = (lane & 2) ? 8 : ((lane >> 4) & 1) + 2 * ((lane >> 3) & 1) + 4 * ((lane >> 2) & 1);
    const bool writes = (lane & 3) == 0 || lane == 2;
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
    bool all_done = is_zero(transmittance);
    for (int first = range.x; first < range.y; first += RASTER_THREADS) {
        if (__syncthreads_count(all_done) == RASTER_THREADS) break;
        const int size = min(RASTER_THREADS, range.y - first);
        load_batch(first, size, sorted_gaussians, records, shared, indices);
        __syncthreads();
        for (int base = 0; base < size && !__all_sync(0xffffffffu, all_done); base += 32) {
            uint32 mask = reaching(shared, base, size, place);
            while (mask) {
                const int at = base + __ffs(mask) - 1;
                mask &= mask - 1;
                const Record g = load_record(shared, at);
                const float dx = g.x - px;
                const Column column = column_of(g, dx);
                float alpha[PIXELS], next[PIXELS];
                bool counts = false;
#pragma unroll
                for (int k = 0; k < PIXELS; ++k) {
                    alpha[k] = alpha_at(column, g.c, g.y - py - LANE_ROWS * k);
                    next[k] = transmittance[k] - transmittance[k] * fminf(ALPHA_MAX, alpha[k]);
                    if (alpha[k] >= ALPHA_MIN && next[k] < TRANSMITTANCE_MIN) transmittance[k] = 0.0f;
                    if (alpha[k] < ALPHA_MIN || transmittance[k] == 0.0f) alpha[k] = 0.0f;
                    counts = counts || alpha[k] > 0.0f;
                }
                if (!__any_sync(0xffffffffu, counts)) continue;
                Sums sum = {0, 0, 0, 0, 0, 0};
#pragma unroll
                for (int k = 0; k < PIXELS; ++k) {
                    if (alpha[k] == 0.0f) continue;
                    const float dy = g.y - py - LANE_ROWS * k, shown = fminf(ALPHA_MAX, alpha[k]);
                    const float weight = shown * transmittance[k];
                    const float shade = gr[k] * g.red + gg[k] * g.green + gb[k] * g.blue;
                    remaining[k] -= weight * shade;
                    sum.red += weight * gr[k];
                    sum.green += weight * gg[k];
                    sum.blue += weight * gb[k];
                    if (alpha[k] <= ALPHA_MAX) {
                        const float s = weight * shade - __fdividef(shown * remaining[k], 1.0f - shown);
                        sum.s += s;
                        sum.sy += s * dy;
                        sum.syy += s * dy * dy;
                    }
                    transmittance[k] = next[k];
                }
                const float sx = sum.s * dx;
                const float v[9] = {sum.s, sx, sum.sy, sx * dx, sum.sy * dx, sum.syy, sum.red, sum.green, sum.blue};
                const float total = sum_nine(v, lane);
                if (writes) atomicAdd(record_gradients + (size_t)indices[at] * GRADIENT_STRIDE + slot, total);
            }
            all_done = is_zero(transmittance);
        }
    }
}
