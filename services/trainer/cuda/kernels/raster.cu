// Compositing of the tiles' lists and its gradient.
//
// A block is a tile, a thread a pixel, a warp 8 x 4 pixels. For every 32 Gaussians of the
// list each lane tests one of them against the warp's pixels, and the warp visits only
// those that reach it: most Gaussians are smaller than a tile.

// Least a dx^2 + 2 b dx dy + c dy^2 over a rectangle of pixel centres, exact: zero inside,
// otherwise on one of the edges that face the mean.
__device__ __forceinline__ float nearest_power(const Record& g, float x0, float y0, float x1, float y1) {
    const float left = x0 - g.x, right = x1 - g.x, top = y0 - g.y, bottom = y1 - g.y;
    const float ex = fmaxf(left, fminf(right, 0.0f)), ey = fmaxf(top, fminf(bottom, 0.0f));
    float best = 3.0e38f;
    if (ex != 0.0f) {
        const float y = fminf(fmaxf(-g.b * ex / g.c, top), bottom);
        best = g.a * ex * ex + 2.0f * g.b * ex * y + g.c * y * y;
    }
    if (ey != 0.0f) {
        const float x = fminf(fmaxf(-g.b * ey / g.a, left), right);
        best = fminf(best, g.a * x * x + 2.0f * g.b * x * ey + g.c * ey * ey);
    }
    return ex == 0.0f && ey == 0.0f ? 0.0f : best;
}

struct PixelPlace {
    int x, y;                          // pixel
    bool inside;                       // of the picture
    float warp_x0, warp_y0;            // centre of the warp's first pixel
};

__device__ __forceinline__ PixelPlace pixel_place(int width, int height) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_x = blockIdx.x * TILE + (warp % (TILE / WARP_WIDTH)) * WARP_WIDTH;
    const int warp_y = blockIdx.y * TILE + (warp / (TILE / WARP_WIDTH)) * WARP_HEIGHT;
    PixelPlace p;
    p.x = warp_x + lane % WARP_WIDTH;
    p.y = warp_y + lane / WARP_WIDTH;
    p.inside = p.x < width && p.y < height;
    p.warp_x0 = warp_x + 0.5f;
    p.warp_y0 = warp_y + 0.5f;
    return p;
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
                                place.warp_y0 + (WARP_HEIGHT - 1)) <= g.reach;
    }
    return __ballot_sync(0xffffffffu, reaches);
}

// Writes the picture as three planes, [3, height, width].
extern "C" __global__ void __launch_bounds__(TILE_PIXELS) rasterize_forward(
    int width, int height, int tiles_x, const int2* __restrict__ ranges,
    const int* __restrict__ sorted_gaussians, const float4* __restrict__ records,
    const float* __restrict__ background, float* __restrict__ picture
) {
    __shared__ float4 shared[TILE_PIXELS * RECORD_FLOAT4S];
    __shared__ int indices[TILE_PIXELS];
    const PixelPlace place = pixel_place(width, height);
    const int2 range = ranges[blockIdx.y * tiles_x + blockIdx.x];
    const float px = place.x + 0.5f, py = place.y + 0.5f;
    float transmittance = 1.0f, red = 0.0f, green = 0.0f, blue = 0.0f;
    bool done = !place.inside;
    for (int first = range.x; first < range.y; first += TILE_PIXELS) {
        if (__syncthreads_count(done) == TILE_PIXELS) break;
        const int size = min(TILE_PIXELS, range.y - first);
        load_batch(first, size, sorted_gaussians, records, shared, indices);
        __syncthreads();
        for (int base = 0; base < size && !__all_sync(0xffffffffu, done); base += 32) {
            uint32 mask = reaching(shared, base, size, place);
            while (mask) {
                const int k = base + __ffs(mask) - 1;
                mask &= mask - 1;
                const Record g = load_record(shared, k);
                const float dx = g.x - px, dy = g.y - py;
                const float power = 0.5f * (g.a * dx * dx + g.c * dy * dy) + g.b * dx * dy;
                const float alpha = fminf(ALPHA_MAX, g.opacity * __expf(-power));
                if (done || power < 0.0f || alpha < ALPHA_MIN) continue;
                const float next = transmittance * (1.0f - alpha);
                if (next < TRANSMITTANCE_MIN) { done = true; continue; }
                const float weight = alpha * transmittance;
                red += weight * g.red;
                green += weight * g.green;
                blue += weight * g.blue;
                transmittance = next;
            }
        }
    }
    if (!place.inside) return;
    const int pixel = place.y * width + place.x, plane = width * height;
    picture[pixel] = red + transmittance * background[0];
    picture[pixel + plane] = green + transmittance * background[1];
    picture[pixel + 2 * plane] = blue + transmittance * background[2];
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

// Gradient of the picture to that of the records, front to back. A pixel's state is its
// transmittance T and s = g . (colour still to come), g the picture's gradient there:
// d loss / d alpha_i = T_i g . c_i - s_after_i / (1 - alpha_i). The walk repeats the
// forward one, decisions included, so that nothing but the picture has to be kept of it.
extern "C" __global__ void __launch_bounds__(TILE_PIXELS) rasterize_backward(
    int width, int height, int tiles_x, const int2* __restrict__ ranges,
    const int* __restrict__ sorted_gaussians, const float4* __restrict__ records,
    const float* __restrict__ picture, const float* __restrict__ picture_gradient,
    float* __restrict__ record_gradients
) {
    __shared__ float4 shared[TILE_PIXELS * RECORD_FLOAT4S];
    __shared__ int indices[TILE_PIXELS];
    const PixelPlace place = pixel_place(width, height);
    const int lane = threadIdx.x % 32;
    const int slot = (lane & 2) ? 8 : ((lane >> 4) & 1) + 2 * ((lane >> 3) & 1) + 4 * ((lane >> 2) & 1);
    const bool writes = (lane & 3) == 0 || lane == 2;
    const int2 range = ranges[blockIdx.y * tiles_x + blockIdx.x];
    const float px = place.x + 0.5f, py = place.y + 0.5f;
    float transmittance = 1.0f, gr = 0.0f, gg = 0.0f, gb = 0.0f, remaining = 0.0f;
    bool done = !place.inside;
    if (place.inside) {
        const int pixel = place.y * width + place.x, plane = width * height;
        gr = picture_gradient[pixel];
        gg = picture_gradient[pixel + plane];
        gb = picture_gradient[pixel + 2 * plane];
        remaining = gr * picture[pixel] + gg * picture[pixel + plane] + gb * picture[pixel + 2 * plane];
    }
    for (int first = range.x; first < range.y; first += TILE_PIXELS) {
        if (__syncthreads_count(done) == TILE_PIXELS) break;
        const int size = min(TILE_PIXELS, range.y - first);
        load_batch(first, size, sorted_gaussians, records, shared, indices);
        __syncthreads();
        for (int base = 0; base < size && !__all_sync(0xffffffffu, done); base += 32) {
            uint32 mask = reaching(shared, base, size, place);
            while (mask) {
                const int k = base + __ffs(mask) - 1;
                mask &= mask - 1;
                const Record g = load_record(shared, k);
                const float dx = g.x - px, dy = g.y - py;
                const float power = 0.5f * (g.a * dx * dx + g.c * dy * dy) + g.b * dx * dy;
                const float falloff = __expf(-power);
                const float alpha = fminf(ALPHA_MAX, g.opacity * falloff);
                bool counts = !done && power >= 0.0f && alpha >= ALPHA_MIN;
                const float next = transmittance * (1.0f - alpha);
                if (counts && next < TRANSMITTANCE_MIN) { done = true; counts = false; }
                if (!__any_sync(0xffffffffu, counts)) continue;
                float v[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
                if (counts) {
                    const float weight = alpha * transmittance;
                    const float shade = gr * g.red + gg * g.green + gb * g.blue;
                    remaining -= weight * shade;
                    const float d_alpha = transmittance * shade - __fdividef(remaining, 1.0f - alpha);
                    transmittance = next;
                    v[6] = weight * gr;
                    v[7] = weight * gg;
                    v[8] = weight * gb;
                    if (g.opacity * falloff <= ALPHA_MAX) {
                        v[5] = falloff * d_alpha;
                        const float d_power = -alpha * d_alpha;
                        v[0] = d_power * (g.a * dx + g.b * dy);
                        v[1] = d_power * (g.c * dy + g.b * dx);
                        v[2] = 0.5f * d_power * dx * dx;
                        v[3] = d_power * dx * dy;
                        v[4] = 0.5f * d_power * dy * dy;
                    }
                }
                const float total = sum_nine(v, lane);
                if (writes) atomicAdd(record_gradients + (size_t)indices[k] * GRADIENT_STRIDE + slot, total);
            }
        }
    }
}
