// (1 - w) L1 + w (1 - SSIM) and its gradient.
//
// SSIM of Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, zero padding. With window
// means mu, p = E[x^2], q = E[x y] the map is m = A B / (C D), A = 2 mu1 mu2 + C1,
// B = 2 (q - mu1 mu2) + C2, C = mu1^2 + mu2^2 + C1, D = var1 + var2 + C2. Its derivatives
// by mu1, p and q, convolved with the same window, give the gradient by x. A photo of four
// channels has a weight in the fourth that both pictures are multiplied with first.

#define REACH 5
#define OUT_X 32
#define OUT_Y 16
#define IN_X (OUT_X + 2 * REACH)
#define IN_Y (OUT_Y + 2 * REACH)
#define LOSS_THREADS 256
#define LOSS_SLOTS 64   // the sums are spread over this many places, or their atomics queue up
#define C1 0.0001f
#define C2 0.0009f

__device__ __constant__ float WINDOW[11] = {
    0.001028380f, 0.007598758f, 0.036000772f, 0.109360690f, 0.213005538f, 0.266011725f,
    0.213005538f, 0.109360690f, 0.036000772f, 0.007598758f, 0.001028380f};

__device__ __forceinline__ float warp_sum(float v) {
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

__device__ __forceinline__ float weight_of(const uint8* target, int channels, int pixel) {
    return channels == 4 ? target[4 * pixel + 3] * (1.0f / 255.0f) : 1.0f;
}

// Block: a 32 x 16 piece of one channel (blockIdx.z). Writes the three derivative maps,
// each [3, height, width], and adds |x - y| and the SSIM values to the block's slot of sums,
// [LOSS_SLOTS, 2].
extern "C" __global__ void __launch_bounds__(LOSS_THREADS) ssim_forward(
    int width, int height, int channels, const float* __restrict__ picture, const uint8* __restrict__ target,
    float* __restrict__ by_mean, float* __restrict__ by_square, float* __restrict__ by_product,
    float* __restrict__ sums
) {
    __shared__ float xs[IN_Y][IN_X], ys[IN_Y][IN_X];
    __shared__ float rows[5][IN_Y][OUT_X];
    const int channel = blockIdx.z, plane = width * height;
    const int x0 = blockIdx.x * OUT_X - REACH, y0 = blockIdx.y * OUT_Y - REACH;
    for (int i = threadIdx.x; i < IN_X * IN_Y; i += LOSS_THREADS) {
        const int lx = i % IN_X, ly = i / IN_X, x = x0 + lx, y = y0 + ly;
        const bool inside = x >= 0 && y >= 0 && x < width && y < height;
        const int pixel = y * width + x;
        const float weight = inside ? weight_of(target, channels, pixel) : 0.0f;
        xs[ly][lx] = inside ? weight * picture[channel * plane + pixel] : 0.0f;
        ys[ly][lx] = inside ? weight * (target[channels * pixel + channel] * (1.0f / 255.0f)) : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < OUT_X * IN_Y; i += LOSS_THREADS) {
        const int lx = i % OUT_X, ly = i / OUT_X;
        float m1 = 0, m2 = 0, p1 = 0, p2 = 0, q = 0;
#pragma unroll
        for (int k = 0; k < 11; ++k) {
            const float x = xs[ly][lx + k], y = ys[ly][lx + k], wx = WINDOW[k] * x, wy = WINDOW[k] * y;
            m1 += wx;
            m2 += wy;
            p1 += wx * x;
            p2 += wy * y;
            q += wx * y;
        }
        rows[0][ly][lx] = m1;
        rows[1][ly][lx] = m2;
        rows[2][ly][lx] = p1;
        rows[3][ly][lx] = p2;
        rows[4][ly][lx] = q;
    }
    __syncthreads();
    float l1 = 0.0f, similarity = 0.0f;
    for (int i = threadIdx.x; i < OUT_X * OUT_Y; i += LOSS_THREADS) {
        const int lx = i % OUT_X, ly = i / OUT_X, x = blockIdx.x * OUT_X + lx, y = blockIdx.y * OUT_Y + ly;
        if (x >= width || y >= height) continue;
        float m[5] = {0, 0, 0, 0, 0};
#pragma unroll
        for (int k = 0; k < 11; ++k)
#pragma unroll
            for (int j = 0; j < 5; ++j) m[j] += WINDOW[k] * rows[j][ly + k][lx];
        const float mu1 = m[0], mu2 = m[1];
        const float a = 2.0f * mu1 * mu2 + C1, b = 2.0f * (m[4] - mu1 * mu2) + C2;
        const float c = mu1 * mu1 + mu2 * mu2 + C1, d = m[2] - mu1 * mu1 + m[3] - mu2 * mu2 + C2;
        const float inv = 1.0f / (c * d), value = a * b * inv;
        const float d_square = -value / d, d_product = 2.0f * a * inv;
        const int at = channel * plane + y * width + x;
        by_mean[at] = 2.0f * mu2 * b * inv - 2.0f * mu1 * value / c - 2.0f * mu1 * d_square - mu2 * d_product;
        by_square[at] = d_square;
        by_product[at] = d_product;
        similarity += value;
        l1 += fabsf(xs[ly + REACH][lx + REACH] - ys[ly + REACH][lx + REACH]);
    }
    l1 = warp_sum(l1);
    similarity = warp_sum(similarity);
    __shared__ float partial[2][LOSS_THREADS / 32];
    if (threadIdx.x % 32 == 0) {
        partial[0][threadIdx.x / 32] = l1;
        partial[1][threadIdx.x / 32] = similarity;
    }
    __syncthreads();
    if (threadIdx.x < 2) {
        float sum = 0.0f;
        for (int k = 0; k < LOSS_THREADS / 32; ++k) sum += partial[threadIdx.x][k];
        const int slot = (blockIdx.x + blockIdx.y * gridDim.x) % LOSS_SLOTS;
        atomicAdd(sums + 2 * slot + threadIdx.x, sum);
    }
}

// Convolves the maps and adds the L1 part: the gradient of the picture, [3, height, width].
extern "C" __global__ void __launch_bounds__(LOSS_THREADS) ssim_backward(
    int width, int height, int channels, float dssim_weight, const float* __restrict__ picture,
    const uint8* __restrict__ target, const float* __restrict__ by_mean,
    const float* __restrict__ by_square, const float* __restrict__ by_product,
    const float* __restrict__ sums, float* __restrict__ gradient, float* __restrict__ loss
) {
    __shared__ float maps[3][IN_Y][IN_X];
    __shared__ float rows[3][IN_Y][OUT_X];
    const int channel = blockIdx.z, plane = width * height;
    const float each = 1.0f / (3.0f * plane);
    const int x0 = blockIdx.x * OUT_X - REACH, y0 = blockIdx.y * OUT_Y - REACH;
    for (int i = threadIdx.x; i < IN_X * IN_Y; i += LOSS_THREADS) {
        const int lx = i % IN_X, ly = i / IN_X, x = x0 + lx, y = y0 + ly;
        const bool inside = x >= 0 && y >= 0 && x < width && y < height;
        const int at = channel * plane + y * width + x;
        maps[0][ly][lx] = inside ? by_mean[at] : 0.0f;
        maps[1][ly][lx] = inside ? by_square[at] : 0.0f;
        maps[2][ly][lx] = inside ? by_product[at] : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < OUT_X * IN_Y; i += LOSS_THREADS) {
        const int lx = i % OUT_X, ly = i / OUT_X;
#pragma unroll
        for (int j = 0; j < 3; ++j) {
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < 11; ++k) sum += WINDOW[k] * maps[j][ly][lx + k];
            rows[j][ly][lx] = sum;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < OUT_X * OUT_Y; i += LOSS_THREADS) {
        const int lx = i % OUT_X, ly = i / OUT_X, x = blockIdx.x * OUT_X + lx, y = blockIdx.y * OUT_Y + ly;
        if (x >= width || y >= height) continue;
        float m[3] = {0, 0, 0};
#pragma unroll
        for (int k = 0; k < 11; ++k)
#pragma unroll
            for (int j = 0; j < 3; ++j) m[j] += WINDOW[k] * rows[j][ly + k][lx];
        const int at = channel * plane + y * width + x;
        const int pixel = y * width + x;
        const float weight = weight_of(target, channels, pixel), value = weight * picture[at];
        const float wanted = weight * (target[channels * pixel + channel] * (1.0f / 255.0f));
        const float off = value - wanted, sign = off > 0.0f ? 1.0f : (off < 0.0f ? -1.0f : 0.0f);
        gradient[at] = weight * each * ((1.0f - dssim_weight) * sign - dssim_weight * (m[0] + 2.0f * value * m[1] + wanted * m[2]));
    }
    if (blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0 && threadIdx.x < 32) {
        float l1 = 0.0f, similarity = 0.0f;
        for (int slot = threadIdx.x; slot < LOSS_SLOTS; slot += 32) {
            l1 += sums[2 * slot];
            similarity += sums[2 * slot + 1];
        }
        l1 = warp_sum(l1) * each;
        similarity = warp_sum(similarity) * each;
        if (threadIdx.x == 0) *loss = (1.0f - dssim_weight) * l1 + dssim_weight * (1.0f - similarity);
    }
}
