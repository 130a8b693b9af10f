// A picture in a photo's own exposure, M r + b of each pixel r, and the way back; see exposure.py.
// Pictures are planes, [3, height, width]; [M | b] is [3, 4].

#define EXPOSURE_THREADS 256
#define EXPOSURE_SUMS 12

// A thread every `gridDim.x * EXPOSURE_THREADS` pixels.
extern "C" __global__ void __launch_bounds__(EXPOSURE_THREADS) expose(
    int pixels, const float* __restrict__ picture, const float* __restrict__ transform, float* __restrict__ shown
) {
    float t[EXPOSURE_SUMS];
    for (int k = 0; k < EXPOSURE_SUMS; ++k) t[k] = transform[k];
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x) {
        const float red = picture[i], green = picture[pixels + i], blue = picture[2 * pixels + i];
        for (int c = 0; c < 3; ++c)
            shown[c * pixels + i] = t[4 * c] * red + t[4 * c + 1] * green + t[4 * c + 2] * blue + t[4 * c + 3];
    }
}

// From d loss / d shown to d loss / d picture, and adds to d loss / d [M | b]. Threads as above.
extern "C" __global__ void __launch_bounds__(EXPOSURE_THREADS) expose_backward(
    int pixels, const float* __restrict__ picture, const float* __restrict__ transform,
    const float* __restrict__ d_shown, float* __restrict__ d_picture, float* __restrict__ d_transform
) {
    float t[EXPOSURE_SUMS], sums[EXPOSURE_SUMS];
    for (int k = 0; k < EXPOSURE_SUMS; ++k) {
        t[k] = transform[k];
        sums[k] = 0.0f;
    }
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x) {
        float color[3], slope[3];
        for (int c = 0; c < 3; ++c) {
            color[c] = picture[c * pixels + i];
            slope[c] = d_shown[c * pixels + i];
        }
        for (int c = 0; c < 3; ++c) {
            d_picture[c * pixels + i] = t[c] * slope[0] + t[4 + c] * slope[1] + t[8 + c] * slope[2];
            for (int k = 0; k < 3; ++k) sums[4 * c + k] += slope[c] * color[k];
            sums[4 * c + 3] += slope[c];
        }
    }
    __shared__ float partial[EXPOSURE_THREADS / 32][EXPOSURE_SUMS];
    for (int k = 0; k < EXPOSURE_SUMS; ++k) {
        const float sum = warp_sum(sums[k]);
        if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32][k] = sum;
    }
    __syncthreads();
    if (threadIdx.x < EXPOSURE_SUMS) {
        float sum = 0.0f;
        for (int warp = 0; warp < EXPOSURE_THREADS / 32; ++warp) sum += partial[warp][threadIdx.x];
        atomicAdd(d_transform + threadIdx.x, sum);
    }
}
