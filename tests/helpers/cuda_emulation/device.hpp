// Enough of CUDA's C++ to run the kernels on a CPU: a block's threads take turns, each until it
// has to wait for others; blocks follow one another, and what they share within is static.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __constant__
#define __shared__ static

struct float4 { float x, y, z, w; };
struct int2 { int x, y; };
struct Dim { int x = 0, y = 0, z = 0; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
using std::max;
using std::min;

// Lets all pass once `size` have arrived.
struct Gate {
    int size = 32, arrived = 0, round = 0;
};
struct Warp {
    Gate gate;
    float values[32];
    bool votes[32];
};
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 17);
    bool done = true;
};

inline Dim threadIdx, blockIdx, blockDim, gridDim;
inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline std::vector<char> block_votes;
inline Gate block_gate;
inline ucontext_t scheduler;
inline std::function<void()> body;

inline void wait(Gate& gate) {
    const int round = gate.round, thread = threadIdx.x;
    if (++gate.arrived == gate.size) {
        gate.arrived = 0;
        ++gate.round;
        return;
    }
    while (gate.round == round) {
        swapcontext(&fibers[thread].context, &scheduler);
        threadIdx.x = thread;
    }
}

inline Warp& own_warp() { return warps[threadIdx.x / 32]; }
inline void __syncthreads() { wait(block_gate); }
inline int __syncthreads_count(bool vote) {
    block_votes[threadIdx.x] = vote;
    wait(block_gate);
    const int count = (int)std::count(block_votes.begin(), block_votes.end(), 1);
    wait(block_gate);
    return count;
}
inline float __shfl_xor_sync(unsigned, float value, int mask) {
    Warp& warp = own_warp();
    const int lane = threadIdx.x % 32;
    warp.values[lane] = value;
    wait(warp.gate);
    const float other = warp.values[lane ^ mask];
    wait(warp.gate);
    return other;
}
inline unsigned __ballot_sync(unsigned, bool vote) {
    Warp& warp = own_warp();
    warp.votes[threadIdx.x % 32] = vote;
    wait(warp.gate);
    unsigned bits = 0;
    for (int k = 0; k < 32; ++k) bits |= (unsigned)warp.votes[k] << k;
    wait(warp.gate);
    return bits;
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == 0xffffffffu; }
inline int __ffs(unsigned bits) { return __builtin_ffs((int)bits); }
inline float __int_as_float(int bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline int __float_as_int(float value) { int bits; std::memcpy(&bits, &value, 4); return bits; }
inline void atomicAdd(float* place, float value) { *place += value; }

inline void fiber_main() {
    const int thread = threadIdx.x;
    body();
    fibers[thread].done = true;
    setcontext(&scheduler);
}

inline void run_block(int block) {
    block_gate = {block};
    warps.assign(block / 32, Warp());
    for (Fiber& fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        makecontext(&fiber.context, fiber_main, 0);
        fiber.done = false;
    }
    for (int left = block; left > 0;) {
        left = 0;
        for (int thread = 0; thread < block; ++thread) {
            if (fibers[thread].done) continue;
            threadIdx.x = thread;
            swapcontext(&scheduler, &fibers[thread].context);
            left += !fibers[thread].done;
        }
    }
}

// Runs a kernel over a grid; `block` is a multiple of 32.
template <typename Kernel, typename... Arguments>
void run(const int* grid, int block, Kernel kernel, Arguments... arguments) {
    blockDim.x = block;
    gridDim = {grid[0], grid[1], grid[2]};
    fibers = std::vector<Fiber>(block);
    block_votes.assign(block, 0);
    body = [=] { kernel(arguments...); };
    for (int z = 0; z < grid[2]; ++z)
        for (int y = 0; y < grid[1]; ++y)
            for (int x = 0; x < grid[0]; ++x) {
                blockIdx = {x, y, z};
                run_block(block);
            }
}
