// (1 - w) L1 + w (1 - SSIM) and its gradient.
//
// SSIM of Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, zero padding. With window
// means mu, p = E[x^2], q = E[x y] the map is m = A B / (C D), A = 2 mu1 mu2 + C1,
// B = 2 (q - mu1 mu2) + C2, C = mu1^2 + mu2^2 + C1, D = var1 + var2 + C2. Its derivatives
// by mu1, p and q, convolved with the same window, give the gradient by x. A photo of four
// channels has a weight in the fourth that both pictures are multiplied with first.

// The kernels are bound by instructions and by reads of shared memory: a thread computes RUN
// neighbours at once, which share what they read.

#define REACH 5
#define OUT_X 32
#define OUT_Y 32
#define RUN 4
#define IN_Y (OUT_Y + 2 * REACH)
#define IN_X (OUT_X + 2 * REACH)
#define STRIDE 44        // floats of a row of input in shared memory: IN_X in whole float4
#define SPAN (RUN + 2 * REACH)
#define LOSS_THREADS 256
#define LOSS_SLOTS 64   // the sums are spread over this many places, or their atomics queue up
#define C1 0.0001f
#define C2 0.0009f

__device__ __constant__ float WINDOW[11] = {
    0.001028380f, 0.007598758f, 0.036000772f, 0.109360690f, 0.213005538f, 0.266011725f,
    0.213005538f, 0.109360690f, 0.036000772f, 0.007598758f, 0.001028380f};

__device__ __forceinline__ float weight_of(const uint8* target, int channels, int pixel) {
    return channels == 4 ? target[4 * pixel + 3] * (1.0f / 255.0f) : 1.0f;
}

// RUN neighbouring outputs of the window over SPAN inputs.
__device__ __forceinline__ void windowed(const float* inputs, float* outputs) {
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
        outputs[i] = 0.0f;
#pragma unroll
        for (int k = 0; k < 11; ++k) outputs[i] += WINDOW[k] * inputs[i + k];
    }
}

// SPAN floats of a row of shared memory, and two more that nobody uses.
__device__ __forceinline__ void read_span(const float4* row, int group, float* values) {
#pragma unroll
    for (int k = 0; k < SPAN; k += 4) {
        const float4 four = row[group + k / 4];
        values[k] = four.x;
        values[k + 1] = four.y;
        values[k + 2] = four.z;
        values[k + 3] = four.w;
    }
}

// One map, horizontally done, as RUN outputs of a column.
__device__ __forceinline__ void down_column(const float4 (*rows)[OUT_X / 4], int column, int first, float* outputs) {
    float values[SPAN];
#pragma unroll
    for (int k = 0; k < SPAN; ++k) values[k] = ((const float*)rows[first + k])[column];
    windowed(values, outputs);
}

__device__ __forceinline__ float4 packed(const float* v) { return make_float4(v[0], v[1], v[2], v[3]); }

// Block: a 32 x 32 piece of one channel (blockIdx.z). Writes the three derivative maps,
// each [3, height, width], and adds |x - y| and the SSIM values to the block's slot of sums,
// [LOSS_SLOTS, 2].
extern "C" __global__ void __launch_bounds__(LOSS_THREADS) ssim_forward(
    int width, int height, int channels, const float* __restrict__ picture, const uint8* __restrict__ target,
    float* __restrict__ by_mean, float* __restrict__ by_square, float* __restrict__ by_product,
    float* __restrict__ sums
) {
    __shared__ float4 xs[IN_Y][STRIDE / 4], ys[IN_Y][STRIDE / 4];
    __shared__ float4 rows[4][IN_Y][OUT_X / 4];   // means of x, y, x^2 + y^2, x y along the row
    const int channel = blockIdx.z, plane = width * height;
    const int x0 = blockIdx.x * OUT_X - REACH, y0 = blockIdx.y * OUT_Y - REACH;
    for (int i = threadIdx.x; i < IN_X * IN_Y; i += LOSS_THREADS) {
        const int lx = i % IN_X, ly = i / IN_X, x = x0 + lx, y = y0 + ly;
        const bool inside = x >= 0 && y >= 0 && x < width && y < height;
        const int pixel = y * width + x;
        const float weight = inside ? weight_of(target, channels, pixel) : 0.0f;
        ((float*)xs[ly])[lx] = inside ? weight * picture[channel * plane + pixel] : 0.0f;
        ((float*)ys[ly])[lx] = inside ? weight * (target[channels * pixel + channel] * (1.0f / 255.0f)) : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < OUT_X / RUN * IN_Y; i += LOSS_THREADS) {
        const int group = i % (OUT_X / RUN), ly = i / (OUT_X / RUN);
        float x[SPAN + 2], y[SPAN + 2], mixed[SPAN], out[RUN];
        read_span(xs[ly], group, x);
        read_span(ys[ly], group, y);
        windowed(x, out);
        rows[0][ly][group] = packed(out);
        windowed(y, out);
        rows[1][ly][group] = packed(out);
#pragma unroll
        for (int k = 0; k < SPAN; ++k) mixed[k] = x[k] * x[k] + y[k] * y[k];
        windowed(mixed, out);
        rows[2][ly][group] = packed(out);
#pragma unroll
        for (int k = 0; k < SPAN; ++k) mixed[k] = x[k] * y[k];
        windowed(mixed, out);
        rows[3][ly][group] = packed(out);
    }
    __syncthreads();
    float l1 = 0.0f, similarity = 0.0f;
    const int lx = threadIdx.x % OUT_X, first = threadIdx.x / OUT_X * RUN, x = blockIdx.x * OUT_X + lx;
    float mean1[RUN], mean2[RUN], squares[RUN], products[RUN];
    down_column(rows[0], lx, first, mean1);
    down_column(rows[1], lx, first, mean2);
    down_column(rows[2], lx, first, squares);
    down_column(rows[3], lx, first, products);
#pragma unroll
    for (int k = 0; k < RUN; ++k) {
        const int ly = first + k, y = blockIdx.y * OUT_Y + ly;
        if (x >= width || y >= height) continue;
        const float mu1 = mean1[k], mu2 = mean2[k], both = mu1 * mu1 + mu2 * mu2;
        const float a = 2.0f * mu1 * mu2 + C1, b = 2.0f * (products[k] - mu1 * mu2) + C2;
        const float c = both + C1, d = squares[k] - both + C2;
        const float inv = 1.0f / (c * d), value = a * b * inv;
        const float d_square = -value * c * inv, d_product = 2.0f * a * inv;
        const int at = channel * plane + y * width + x;
        by_mean[at] = 2.0f * (mu2 * b - mu1 * value * d) * inv - 2.0f * mu1 * d_square - mu2 * d_product;
        by_square[at] = d_square;
        by_product[at] = d_product;
        similarity += value;
        l1 += fabsf(((float*)xs[ly + REACH])[lx + REACH] - ((float*)ys[ly + REACH])[lx + REACH]);
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
    __shared__ float4 maps[3][IN_Y][STRIDE / 4];
    __shared__ float4 rows[3][IN_Y][OUT_X / 4];
    const int channel = blockIdx.z, plane = width * height;
    const float each = 1.0f / (3.0f * plane);
    const int x0 = blockIdx.x * OUT_X - REACH, y0 = blockIdx.y * OUT_Y - REACH;
    for (int i = threadIdx.x; i < IN_X * IN_Y; i += LOSS_THREADS) {
        const int lx = i % IN_X, ly = i / IN_X, x = x0 + lx, y = y0 + ly;
        const bool inside = x >= 0 && y >= 0 && x < width && y < height;
        const int at = channel * plane + y * width + x;
        ((float*)maps[0][ly])[lx] = inside ? by_mean[at] : 0.0f;
        ((float*)maps[1][ly])[lx] = inside ? by_square[at] : 0.0f;
        ((float*)maps[2][ly])[lx] = inside ? by_product[at] : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < OUT_X / RUN * IN_Y; i += LOSS_THREADS) {
        const int group = i % (OUT_X / RUN), ly = i / (OUT_X / RUN);
#pragma unroll
        for (int j = 0; j < 3; ++j) {
            float values[SPAN + 2], out[RUN];
            read_span(maps[j][ly], group, values);
            windowed(values, out);
            rows[j][ly][group] = packed(out);
        }
    }
    __syncthreads();
    const int lx = threadIdx.x % OUT_X, first = threadIdx.x / OUT_X * RUN, x = blockIdx.x * OUT_X + lx;
    float mean[RUN], square[RUN], product[RUN];
    down_column(rows[0], lx, first, mean);
    down_column(rows[1], lx, first, square);
    down_column(rows[2], lx, first, product);
#pragma unroll
    for (int k = 0; k < RUN; ++k) {
        const int y = blockIdx.y * OUT_Y + first + k;
        if (x >= width || y >= height) continue;
        const int pixel = y * width + x, at = channel * plane + pixel;
        const float weight = weight_of(target, channels, pixel), value = weight * picture[at];
        const float wanted = weight * (target[channels * pixel + channel] * (1.0f / 255.0f));
        const float off = value - wanted, sign = off > 0.0f ? 1.0f : (off < 0.0f ? -1.0f : 0.0f);
        const float by_ssim = mean[k] + 2.0f * value * square[k] + wanted * product[k];
        gradient[at] = weight * each * ((1.0f - dssim_weight) * sign - dssim_weight * by_ssim);
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
