// Shared by all kernels: sizes, the record of a projected Gaussian, small maths.
//
// Compiled at run time by NVRTC: no headers of the toolkit, no host code.
#pragma once

typedef unsigned int uint32;
typedef unsigned char uint8;

#define TILE 16              // pixels on a tile's side
#define PIXELS 2             // of a rasterising thread, one above the other
#define RASTER_THREADS (TILE * TILE / PIXELS)
#define WARP_WIDTH 8         // a warp covers 8 x 8 pixels of its tile: lanes are 8 x 4
#define LANE_ROWS 4
#define WARP_HEIGHT (LANE_ROWS * PIXELS)
#define RECORD_FLOAT4S 3     // a projected Gaussian is three float4
#define GRADIENT_STRIDE 12   // floats a Gaussian in the gradient of its record

#define ALPHA_MIN (1.0f / 255.0f)
#define ALPHA_MAX 0.99f
#define TRANSMITTANCE_MIN 1e-4f
#define LOW_PASS 0.3f        // pixel^2 added to the projected covariance
#define NEAR_PLANE 0.01f

// A projected Gaussian as the rasteriser reads it: alpha = 2^(log_opacity - a dx^2 - b dx dy - c dy^2).
struct Record {
    float x, y;              // mean, pixels
    float a, b, c;           // from the inverse covariance, see CONIC_DIAGONAL; 1/pixel^2
    float log_opacity;       // to base 2
    float red, green, blue;
};

// The inverse covariance [[p, q], [q, r]] gives a = p CONIC_DIAGONAL, b = q CONIC_CROSS,
// c = r CONIC_DIAGONAL, so that exp(-power) costs no more than one instruction's 2^x.
#define CONIC_CROSS 1.4426950408889634f         // log2(e)
#define CONIC_DIAGONAL (0.5f * CONIC_CROSS)
#define LOG_ALPHA_MIN -7.994353436858858f       // log2(1/255)

// Where a dx^2 + b dx dy + c dy^2 exceeds this, alpha < 1/255.
__device__ __forceinline__ float reach_of(const Record& g) { return g.log_opacity - LOG_ALPHA_MIN; }

__device__ __forceinline__ Record load_record(const float4* records, int index) {
    const float4 p = records[index * RECORD_FLOAT4S];
    const float4 q = records[index * RECORD_FLOAT4S + 1];
    const float4 r = records[index * RECORD_FLOAT4S + 2];
    return {p.x, p.y, p.z, p.w, q.x, q.y, q.z, q.w, r.x};
}

// Camera: 12 floats of cam_from_world (3 x 4, row by row), then fx fy cx cy width height
// and the three coordinates of the camera's centre in the world.
struct CameraView {
    float m[12];
    float fx, fy, cx, cy, width, height;
    float center[3];
};

// First and last tile column that the ellipse reaches within one row of tiles, from the
// exact extent of the ellipse between the row's first and last pixel centre.
//
// The ellipse is a dx^2 + 2 h dx dy + c dy^2 = reach, h half of b. For a fixed dy its right end
// is (-h dy + sqrt(h^2 dy^2 - a (c dy^2 - reach))) / a; over an interval of dy the end is
// furthest at the dy of the ellipse's own extreme point, clamped to the interval.
__device__ __forceinline__ bool tile_columns(
    const Record& g, int row, int tiles_x, int* first, int* last
) {
    const float low = row * TILE + 0.5f - g.y;
    const float high = low + (TILE - 1);
    const float h = 0.5f * g.b, reach = reach_of(g), det = g.a * g.c - h * h;
    const float half_height = sqrtf(reach * g.a / det);
    if (low > half_height || high < -half_height) return false;
    const float half_width = sqrtf(reach * g.c / det);
    const float extreme = -h / g.c * half_width;  // dy of the rightmost point
    const float y_right = fminf(fmaxf(extreme, low), high);
    const float y_left = fminf(fmaxf(-extreme, low), high);
    const float root_right = fmaxf(h * h * y_right * y_right - g.a * (g.c * y_right * y_right - reach), 0.0f);
    const float root_left = fmaxf(h * h * y_left * y_left - g.a * (g.c * y_left * y_left - reach), 0.0f);
    const float right = g.x + (-h * y_right + sqrtf(root_right)) / g.a;
    const float left = g.x + (-h * y_left - sqrtf(root_left)) / g.a;
    // A tile's pixel centres span [16 t + 0.5, 16 t + 15.5].
    const float first_tile = ceilf((left - (TILE - 0.5f)) / TILE);
    const float last_tile = floorf((right - 0.5f) / TILE);
    *first = (int)fmaxf(first_tile, 0.0f);
    *last = (int)fminf(last_tile, (float)(tiles_x - 1));
    return *first <= *last;
}

// Rows of tiles that the ellipse reaches.
__device__ __forceinline__ void tile_rows(const Record& g, int tiles_y, int* first, int* last) {
    const float det = g.a * g.c - 0.25f * g.b * g.b;
    const float half_height = sqrtf(reach_of(g) * g.a / det);
    *first = (int)fmaxf(ceilf((g.y - half_height - (TILE - 0.5f)) / TILE), 0.0f);
    *last = (int)fminf(floorf((g.y + half_height - 0.5f) / TILE), (float)(tiles_y - 1));
}

// 2^x in one instruction; what is too small to be a normal number becomes zero.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef __CUDA_ARCH__
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    return exp2f(x);
#endif
}

// 1 / x in one instruction, for x that is a normal number.
__device__ __forceinline__ float fast_reciprocal(float x) {
#ifdef __CUDA_ARCH__
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    return 1.0f / x;
#endif
}

// The sum over a warp, which each of its threads gets.
__device__ __forceinline__ float warp_sum(float v) {
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

// Rotation matrix, row by row, of a normalised quaternion wxyz.
__device__ __forceinline__ void rotation_from_quaternion(const float* q, float* r) {
    const float w = q[0], x = q[1], y = q[2], z = q[3];
    r[0] = 1.0f - 2.0f * (y * y + z * z);
    r[1] = 2.0f * (x * y - w * z);
    r[2] = 2.0f * (x * z + w * y);
    r[3] = 2.0f * (x * y + w * z);
    r[4] = 1.0f - 2.0f * (x * x + z * z);
    r[5] = 2.0f * (y * z - w * x);
    r[6] = 2.0f * (x * z - w * y);
    r[7] = 2.0f * (y * z + w * x);
    r[8] = 1.0f - 2.0f * (x * x + y * y);
}
