// Adam (Kingma and Ba 2015) over all parameter groups in one launch.

struct AdamGroups {
    float* parameters[6];
    const float* gradients[6];
    float* first[6];
    float* second[6];
    long long sizes[6];      // floats
};

// blockIdx.y names the group; rateK is learning rate / (1 - beta1^step) of group K,
// second_correction 1 / sqrt(1 - beta2^step).
extern "C" __global__ void __launch_bounds__(256) adam_step(
    const AdamGroups* __restrict__ groups, float beta1, float beta2, float epsilon, float second_correction,
    float rate0, float rate1, float rate2, float rate3, float rate4, float rate5
) {
    const int group = blockIdx.y;
    const long long size = groups->sizes[group];
    float* parameters = groups->parameters[group];
    const float* gradients = groups->gradients[group];
    float* first = groups->first[group];
    float* second = groups->second[group];
    const float rates[6] = {rate0, rate1, rate2, rate3, rate4, rate5};
    float rate = 0.0f;
#pragma unroll
    for (int k = 0; k < 6; ++k) rate = group == k ? rates[k] : rate;
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride) {
        const float g = gradients[i];
        const float m = beta1 * first[i] + (1.0f - beta1) * g;
        const float v = beta2 * second[i] + (1.0f - beta2) * g * g;
        first[i] = m;
        second[i] = v;
        parameters[i] -= rate * m / (sqrtf(v) * second_correction + epsilon);
    }
}
