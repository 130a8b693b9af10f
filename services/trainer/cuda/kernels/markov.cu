// The moves of 3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024) that
// every step makes; see markov_moves.py for what they are.

#define DEAD_OPACITY 0.005f
#define NOISE_SHARPNESS 100.0f

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// One thread a Gaussian; weights are by Gaussian and by scale.
extern "C" __global__ void __launch_bounds__(256) penalize(
    int count, float opacity_weight, float scale_weight, const float* __restrict__ opacity_logits,
    const float* __restrict__ log_scales, float* __restrict__ d_opacity_logits, float* __restrict__ d_log_scales
) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float opacity = sigmoid(opacity_logits[i]);
    d_opacity_logits[i] += opacity_weight * opacity * (1.0f - opacity);
    for (int k = 0; k < 3; ++k) d_log_scales[3 * i + k] += scale_weight * expf(log_scales[3 * i + k]);
}

// One thread a Gaussian.
extern "C" __global__ void __launch_bounds__(256) shake(
    int count, float strength, const float* __restrict__ log_scales, const float* __restrict__ quats,
    const float* __restrict__ opacity_logits, const float* __restrict__ noise, float* __restrict__ means
) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float weight = strength * sigmoid(NOISE_SHARPNESS * (DEAD_OPACITY - sigmoid(opacity_logits[i])));
    float q[4], r[9], own[3];
    float norm = 0.0f;
    for (int k = 0; k < 4; ++k) norm += quats[4 * i + k] * quats[4 * i + k];
    norm = fmaxf(sqrtf(norm), 1e-12f);
    for (int k = 0; k < 4; ++k) q[k] = quats[4 * i + k] / norm;
    rotation_from_quaternion(q, r);
    for (int k = 0; k < 3; ++k) {
        own[k] = 0.0f;
        for (int j = 0; j < 3; ++j) own[k] += r[3 * j + k] * noise[3 * i + j];
        own[k] *= expf(2.0f * log_scales[3 * i + k]);
    }
    for (int j = 0; j < 3; ++j)
        means[3 * i + j] += weight * (r[3 * j] * own[0] + r[3 * j + 1] * own[1] + r[3 * j + 2] * own[2]);
}
