// Projection of Gaussians to the picture and its gradient.
//
// EWA splatting (Zwicker et al. 2001) as in 3D Gaussian Splatting (Kerbl et al. 2023):
// cov2d = J W S W^T J^T + 0.3 I with J the Jacobian of the pinhole projection at the mean.

struct Projected {
    float cam[3];        // mean in the camera frame
    float tx, ty;        // x and y in the camera frame, clamped for the Jacobian
    bool clamped_x, clamped_y;
    float rotation[9];   // of the normalised quaternion, row by row
    float scale[3];
    float v[6];          // J W R diag(scale), 2 x 3
    float t[6];          // J W, 2 x 3
    float q[4];          // normalised quaternion, wxyz
    float q_norm;
    float cov_a, cov_b, cov_c;
};

// Answers false for a Gaussian that cannot be seen or is not finite.
__device__ __forceinline__ bool project(
    const CameraView& cam, const float* mean, const float* log_scale, const float* quat, Projected& p
) {
    for (int i = 0; i < 3; ++i)
        p.cam[i] = cam.m[4 * i] * mean[0] + cam.m[4 * i + 1] * mean[1] + cam.m[4 * i + 2] * mean[2] + cam.m[4 * i + 3];
    const float z = p.cam[2];
    if (!(z > NEAR_PLANE)) return false;
    p.q_norm = sqrtf(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3]);
    if (!(p.q_norm > 1e-12f)) return false;
    for (int i = 0; i < 4; ++i) p.q[i] = quat[i] / p.q_norm;
    rotation_from_quaternion(p.q, p.rotation);
    for (int i = 0; i < 3; ++i) p.scale[i] = expf(log_scale[i]);

    // Beyond 1.3 times the field of view the linearisation is worthless: clamp it.
    const float margin_x = 0.15f * cam.width / cam.fx, margin_y = 0.15f * cam.height / cam.fy;
    const float slope_x = p.cam[0] / z, slope_y = p.cam[1] / z;
    const float sx = fminf(fmaxf(slope_x, -cam.cx / cam.fx - margin_x), (cam.width - cam.cx) / cam.fx + margin_x);
    const float sy = fminf(fmaxf(slope_y, -cam.cy / cam.fy - margin_y), (cam.height - cam.cy) / cam.fy + margin_y);
    p.clamped_x = sx != slope_x;
    p.clamped_y = sy != slope_y;
    p.tx = sx * z;
    p.ty = sy * z;
    const float j00 = cam.fx / z, j02 = -cam.fx * p.tx / (z * z);
    const float j11 = cam.fy / z, j12 = -cam.fy * p.ty / (z * z);
    for (int k = 0; k < 3; ++k) {
        p.t[k] = j00 * cam.m[k] + j02 * cam.m[8 + k];
        p.t[3 + k] = j11 * cam.m[4 + k] + j12 * cam.m[8 + k];
    }
    for (int row = 0; row < 2; ++row)
        for (int k = 0; k < 3; ++k)
            p.v[3 * row + k] = (p.t[3 * row] * p.rotation[k] + p.t[3 * row + 1] * p.rotation[3 + k]
                                + p.t[3 * row + 2] * p.rotation[6 + k]) * p.scale[k];
    p.cov_a = p.v[0] * p.v[0] + p.v[1] * p.v[1] + p.v[2] * p.v[2] + LOW_PASS;
    p.cov_b = p.v[0] * p.v[3] + p.v[1] * p.v[4] + p.v[2] * p.v[5];
    p.cov_c = p.v[3] * p.v[3] + p.v[4] * p.v[4] + p.v[5] * p.v[5] + LOW_PASS;
    return true;
}

// What the low-pass filter must take from the opacity: Mip-Splatting's 2D filter (Yu et al. 2024),
// rho = sqrt(det(cov2d) / det(cov2d + 0.3 I)), cov2d = F F^T before the filter. With f0, f1 the rows
// of F and n = f0 x f1, det(cov2d) = |n|^2 (Lagrange's identity) and det(cov2d + 0.3 I) = |n|^2 +
// 0.3 (|f0|^2 + |f1|^2 + 0.3): sums of squares, where xx yy - xy^2 cancels down to noise for a needle.
struct Footprint {
    float n[3];              // f0 x f1
    float area;              // |n|^2
    float excess;            // how much larger the determinant is after the filter
};

__device__ __forceinline__ Footprint footprint(const float* v) {
    Footprint f;
    f.n[0] = v[1] * v[5] - v[2] * v[4];
    f.n[1] = v[2] * v[3] - v[0] * v[5];
    f.n[2] = v[0] * v[4] - v[1] * v[3];
    f.area = f.n[0] * f.n[0] + f.n[1] * f.n[1] + f.n[2] * f.n[2];
    float trace = 0.0f;
    for (int k = 0; k < 6; ++k) trace += v[k] * v[k];
    f.excess = LOW_PASS * (trace + LOW_PASS);
    return f;
}

__device__ __forceinline__ float compensation(const float* v) {
    const Footprint f = footprint(v);
    return sqrtf(f.area / (f.area + f.excess));
}

// Adds weight d log(rho) / d F: by f0 it is e / (|n|^2 + e) (f1 x n) / |n|^2 - 0.3 f0 / (|n|^2 + e),
// e the excess, by f1 the same with n x f0. |n| is far from 0 where opacity * rho is 1/255 and more.
__device__ __forceinline__ void add_compensation_gradient(const float* v, float weight, float* dv) {
    const Footprint f = footprint(v);
    const float inverse = weight / (f.area + f.excess);
    const float shape = inverse * f.excess / f.area, size = inverse * LOW_PASS;
    dv[0] += shape * (v[4] * f.n[2] - v[5] * f.n[1]) - size * v[0];
    dv[1] += shape * (v[5] * f.n[0] - v[3] * f.n[2]) - size * v[1];
    dv[2] += shape * (v[3] * f.n[1] - v[4] * f.n[0]) - size * v[2];
    dv[3] += shape * (f.n[1] * v[2] - f.n[2] * v[1]) - size * v[3];
    dv[4] += shape * (f.n[2] * v[0] - f.n[0] * v[2]) - size * v[4];
    dv[5] += shape * (f.n[0] * v[1] - f.n[1] * v[0]) - size * v[5];
}

// Real spherical harmonics up to degree 3, without the degree-0 one, at direction (x, y, z).
__device__ __forceinline__ void sh_basis(int degree, float x, float y, float z, float* basis) {
    if (degree < 1) return;
    basis[0] = -0.4886025119029199f * y;
    basis[1] = 0.4886025119029199f * z;
    basis[2] = -0.4886025119029199f * x;
    if (degree < 2) return;
    const float xx = x * x, yy = y * y, zz = z * z;
    basis[3] = 1.0925484305920792f * x * y;
    basis[4] = -1.0925484305920792f * y * z;
    basis[5] = 0.31539156525252005f * (2.0f * zz - xx - yy);
    basis[6] = -1.0925484305920792f * x * z;
    basis[7] = 0.5462742152960396f * (xx - yy);
    if (degree < 3) return;
    basis[8] = -0.5900435899266435f * y * (3.0f * xx - yy);
    basis[9] = 2.890611442640554f * x * y * z;
    basis[10] = -0.4570457994644658f * y * (4.0f * zz - xx - yy);
    basis[11] = 0.3731763325901154f * z * (2.0f * zz - 3.0f * xx - 3.0f * yy);
    basis[12] = -0.4570457994644658f * x * (4.0f * zz - xx - yy);
    basis[13] = 1.445305721320277f * z * (xx - yy);
    basis[14] = -0.5900435899266435f * x * (xx - 3.0f * yy);
}

// Adds d (sum_k weight[k] basis[k]) / d (x, y, z) to gradient.
__device__ __forceinline__ void sh_direction_gradient(
    int degree, float x, float y, float z, const float* weight, float* gradient
) {
    if (degree < 1) return;
    float gx = -0.4886025119029199f * weight[2];
    float gy = -0.4886025119029199f * weight[0];
    float gz = 0.4886025119029199f * weight[1];
    if (degree >= 2) {
        const float w3 = 1.0925484305920792f * weight[3], w4 = -1.0925484305920792f * weight[4];
        const float w5 = 0.31539156525252005f * weight[5], w6 = -1.0925484305920792f * weight[6];
        const float w7 = 0.5462742152960396f * weight[7];
        gx += w3 * y - 2.0f * w5 * x + w6 * z + 2.0f * w7 * x;
        gy += w3 * x + w4 * z - 2.0f * w5 * y - 2.0f * w7 * y;
        gz += w4 * y + 4.0f * w5 * z + w6 * x;
    }
    if (degree >= 3) {
        const float xx = x * x, yy = y * y, zz = z * z;
        const float w8 = -0.5900435899266435f * weight[8], w9 = 2.890611442640554f * weight[9];
        const float w10 = -0.4570457994644658f * weight[10], w11 = 0.3731763325901154f * weight[11];
        const float w12 = -0.4570457994644658f * weight[12], w13 = 1.445305721320277f * weight[13];
        const float w14 = -0.5900435899266435f * weight[14];
        gx += w8 * 6.0f * x * y + w9 * y * z - w10 * 2.0f * x * y - w11 * 6.0f * x * z
            + w12 * (4.0f * zz - 3.0f * xx - yy) + w13 * 2.0f * x * z + w14 * 3.0f * (xx - yy);
        gy += w8 * 3.0f * (xx - yy) + w9 * x * z + w10 * (4.0f * zz - xx - 3.0f * yy) - w11 * 6.0f * y * z
            - w12 * 2.0f * x * y - w13 * 2.0f * y * z - w14 * 6.0f * x * y;
        gz += w9 * x * y + w10 * 8.0f * y * z + w11 * (6.0f * zz - 3.0f * xx - 3.0f * yy)
            + w12 * 8.0f * x * z + w13 * (xx - yy);
    }
    gradient[0] += gx;
    gradient[1] += gy;
    gradient[2] += gz;
}

// Unit vector from the camera to the mean; answers the distance.
__device__ __forceinline__ float view_direction(const CameraView& cam, const float* mean, float* dir) {
    for (int i = 0; i < 3; ++i) dir[i] = mean[i] - cam.center[i];
    const float norm = fmaxf(sqrtf(dir[0] * dir[0] + dir[1] * dir[1] + dir[2] * dir[2]), 1e-12f);
    for (int i = 0; i < 3; ++i) dir[i] /= norm;
    return norm;
}

// One thread a Gaussian. Writes its record, depth (infinite when unseen), the number of
// tiles it reaches, and its radius in pixels (3 sigma, 0 when unseen).
extern "C" __global__ void __launch_bounds__(256) project_forward(
    int count, int rest_count, int degree, int antialiased, const CameraView* __restrict__ camera,
    int tiles_x, int tiles_y,
    const float* __restrict__ means, const float* __restrict__ log_scales, const float* __restrict__ quats,
    const float* __restrict__ opacity_logits, const float* __restrict__ sh0, const float* __restrict__ sh_rest,
    float4* __restrict__ records, float* __restrict__ depths, int* __restrict__ tile_counts,
    float* __restrict__ radii
) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const CameraView cam = *camera;
    depths[i] = __int_as_float(0x7f800000);
    tile_counts[i] = 0;
    radii[i] = 0.0f;
    const float* mean = means + 3 * i;
    Projected p;
    if (!project(cam, mean, log_scales + 3 * i, quats + 4 * i, p)) return;
    const float full_opacity = 1.0f / (1.0f + expf(-opacity_logits[i]));
    const float opacity = antialiased ? full_opacity * compensation(p.v) : full_opacity;
    const float det = p.cov_a * p.cov_c - p.cov_b * p.cov_b;
    if (!(opacity >= ALPHA_MIN) || !(det > 0.0f) || !(det < 1e30f)) return;

    Record g;
    g.x = cam.fx * p.cam[0] / p.cam[2] + cam.cx;
    g.y = cam.fy * p.cam[1] / p.cam[2] + cam.cy;
    g.a = CONIC_DIAGONAL * p.cov_c / det;
    g.b = -CONIC_CROSS * p.cov_b / det;
    g.c = CONIC_DIAGONAL * p.cov_a / det;
    g.log_opacity = log2f(opacity);
    int first_row, last_row, tiles = 0;
    tile_rows(g, tiles_y, &first_row, &last_row);
    for (int row = first_row; row <= last_row; ++row) {
        int first, last;
        if (tile_columns(g, row, tiles_x, &first, &last)) tiles += last - first + 1;
    }
    if (tiles == 0) return;

    float color[3] = {sh0[3 * i], sh0[3 * i + 1], sh0[3 * i + 2]};
    for (int c = 0; c < 3; ++c) color[c] = 0.5f + 0.28209479177387814f * color[c];
    if (degree > 0) {
        float dir[3], basis[15];
        view_direction(cam, mean, dir);
        sh_basis(degree, dir[0], dir[1], dir[2], basis);
        const float* rest = sh_rest + (size_t)3 * rest_count * i;
        const int used = (degree + 1) * (degree + 1) - 1;
#pragma unroll
        for (int k = 0; k < 15; ++k)
            if (k < used)
                for (int c = 0; c < 3; ++c) color[c] += basis[k] * rest[3 * k + c];
    }
    records[i * RECORD_FLOAT4S] = make_float4(g.x, g.y, g.a, g.b);
    records[i * RECORD_FLOAT4S + 1] = make_float4(g.c, g.log_opacity, fmaxf(color[0], 0.0f), fmaxf(color[1], 0.0f));
    records[i * RECORD_FLOAT4S + 2] = make_float4(fmaxf(color[2], 0.0f), full_opacity, 0.0f, 0.0f);
    depths[i] = p.cam[2];
    tile_counts[i] = tiles;
    const float half_trace = 0.5f * (p.cov_a + p.cov_c);
    radii[i] = ceilf(3.0f * sqrtf(half_trace + sqrtf(fmaxf(half_trace * half_trace - det, 0.0f))));
}

__device__ __forceinline__ void quaternion_gradient(const Projected& p, const float* dr, float* out) {
    const float w = p.q[0], x = p.q[1], y = p.q[2], z = p.q[3];
    float d[4];
    d[0] = 2.0f * (-z * dr[1] + y * dr[2] + z * dr[3] - x * dr[5] - y * dr[6] + x * dr[7]);
    d[1] = 2.0f * (y * dr[1] + z * dr[2] + y * dr[3] - 2.0f * x * dr[4] - w * dr[5] + z * dr[6] + w * dr[7] - 2.0f * x * dr[8]);
    d[2] = 2.0f * (-2.0f * y * dr[0] + x * dr[1] + w * dr[2] + x * dr[3] + z * dr[5] - w * dr[6] + z * dr[7] - 2.0f * y * dr[8]);
    d[3] = 2.0f * (-2.0f * z * dr[0] - w * dr[1] + x * dr[2] + w * dr[3] - 2.0f * z * dr[4] + y * dr[5] + x * dr[6] + y * dr[7]);
    const float along = d[0] * w + d[1] * x + d[2] * y + d[3] * z;
    for (int i = 0; i < 4; ++i) out[i] = (d[i] - along * p.q[i]) / p.q_norm;
}

#define BACKWARD_THREADS 128

// Gradient by the spherical harmonics of one Gaussian: replaces its coefficients in `rest`
// by their gradient, and adds to d_mean what the direction of view passes on.
__device__ __forceinline__ void sh_backward(
    int degree, const CameraView& cam, const float* mean, const float* d_color, float* rest, float* d_mean
) {
    float dir[3], basis[15], weight[15], d_dir[3] = {0, 0, 0};
    const float distance = view_direction(cam, mean, dir);
    const int used = (degree + 1) * (degree + 1) - 1;
    sh_basis(degree, dir[0], dir[1], dir[2], basis);
#pragma unroll
    for (int k = 0; k < 15; ++k)
        if (k < used) {
            weight[k] = 0.0f;
            for (int c = 0; c < 3; ++c) {
                weight[k] += rest[3 * k + c] * d_color[c];
                rest[3 * k + c] = basis[k] * d_color[c];
            }
        }
    sh_direction_gradient(degree, dir[0], dir[1], dir[2], weight, d_dir);
    const float along = d_dir[0] * dir[0] + d_dir[1] * dir[1] + d_dir[2] * dir[2];
    for (int k = 0; k < 3; ++k) d_mean[k] += (d_dir[k] - along * dir[k]) / distance;
}

// The gradient of one Gaussian; `rest` holds its higher harmonics and gets their gradient.
__device__ __forceinline__ void gaussian_backward(
    int i, int rest_count, int degree, bool antialiased, const CameraView& camera, const float* means,
    const float* log_scales, const float* quats, const float4* records, const int* tile_counts,
    const float4* record_gradients, float* rest, float* d_means, float* d_log_scales,
    float* d_quats, float* d_opacity_logits, float* d_sh0, float* mean2d_norms
) {
    const CameraView cam = camera;
    const float mean[3] = {means[3 * i], means[3 * i + 1], means[3 * i + 2]};
    Projected p;
    if (tile_counts[i] == 0 || !project(cam, mean, log_scales + 3 * i, quats + 4 * i, p)) {
        for (int k = 0; k < 3; ++k) d_means[3 * i + k] = d_log_scales[3 * i + k] = d_sh0[3 * i + k] = 0.0f;
        for (int k = 0; k < 4; ++k) d_quats[4 * i + k] = 0.0f;
        for (int k = 0; k < 3 * rest_count; ++k) rest[k] = 0.0f;
        d_opacity_logits[i] = 0.0f;
        mean2d_norms[i] = 0.0f;
        return;
    }
    const Record g = load_record(records, i);
    const float a = g.a / CONIC_DIAGONAL, b = g.b / CONIC_CROSS, c = g.c / CONIC_DIAGONAL;
    // With s = alpha d loss / d alpha: the sums of s, s dx, s dy, s dx^2, s dx dy, s dy^2 over
    // the pixels, then the gradient of the colour. Power is (a dx^2 + c dy^2) / 2 + b dx dy.
    const float4 g0 = record_gradients[3 * i], g1 = record_gradients[3 * i + 1], g2 = record_gradients[3 * i + 2];
    const float d_log_opacity = g0.x, dx2d = -(a * g0.y + b * g0.z), dy2d = -(c * g0.z + b * g0.y);
    const float da = -0.5f * g0.w, db = -0.5f * g1.x, dc = -0.5f * g1.y;
    float d_color[3] = {g1.z, g1.w, g2.x};
    mean2d_norms[i] = sqrtf(dx2d * dx2d * cam.width * cam.width + dy2d * dy2d * cam.height * cam.height) * 0.5f;
    // Opacity is sigmoid * rho; the sigmoid alone stands in the record too.
    d_opacity_logits[i] = d_log_opacity * (1.0f - records[i * RECORD_FLOAT4S + 2].y);

    // d cov = - conic (d conic) conic, both symmetric.
    const float l0 = a * da + b * db, l1 = a * db + b * dc;
    const float l2 = b * da + c * db, l3 = b * db + c * dc;
    const float ca = -(l0 * a + l1 * b), cb = -(l0 * b + l1 * c), cc = -(l2 * b + l3 * c);
    float dv[6];
    for (int k = 0; k < 3; ++k) {
        dv[k] = 2.0f * (ca * p.v[k] + cb * p.v[3 + k]);
        dv[3 + k] = 2.0f * (cb * p.v[k] + cc * p.v[3 + k]);
    }
    if (antialiased) add_compensation_gradient(p.v, d_log_opacity, dv);
    float dt[6] = {0, 0, 0, 0, 0, 0}, dr[9];
    for (int k = 0; k < 3; ++k) {
        float d_scale = 0.0f;
        for (int r = 0; r < 3; ++r) {
            const float m = p.rotation[3 * r + k] * p.scale[k];
            dt[r] += dv[k] * m;
            dt[3 + r] += dv[3 + k] * m;
            const float dm = p.t[r] * dv[k] + p.t[3 + r] * dv[3 + k];
            d_scale += dm * m;
            dr[3 * r + k] = dm * p.scale[k];
        }
        d_log_scales[3 * i + k] = d_scale;
    }
    quaternion_gradient(p, dr, d_quats + 4 * i);

    const float z = p.cam[2], inv_z = 1.0f / z, inv_z2 = inv_z * inv_z;
    float j00 = 0, j02 = 0, j11 = 0, j12 = 0;
    for (int k = 0; k < 3; ++k) {
        j00 += dt[k] * cam.m[k];
        j02 += dt[k] * cam.m[8 + k];
        j11 += dt[3 + k] * cam.m[4 + k];
        j12 += dt[3 + k] * cam.m[8 + k];
    }
    float dcam[3];
    dcam[0] = dx2d * cam.fx * inv_z;
    dcam[1] = dy2d * cam.fy * inv_z;
    dcam[2] = -(dx2d * cam.fx * p.cam[0] + dy2d * cam.fy * p.cam[1]) * inv_z2 - (j00 * cam.fx + j11 * cam.fy) * inv_z2;
    if (p.clamped_x) dcam[2] += j02 * cam.fx * p.tx * inv_z2 * inv_z;
    else { dcam[0] -= j02 * cam.fx * inv_z2; dcam[2] += 2.0f * j02 * cam.fx * p.tx * inv_z2 * inv_z; }
    if (p.clamped_y) dcam[2] += j12 * cam.fy * p.ty * inv_z2 * inv_z;
    else { dcam[1] -= j12 * cam.fy * inv_z2; dcam[2] += 2.0f * j12 * cam.fy * p.ty * inv_z2 * inv_z; }

    float d_mean[3];
    for (int k = 0; k < 3; ++k) d_mean[k] = cam.m[k] * dcam[0] + cam.m[4 + k] * dcam[1] + cam.m[8 + k] * dcam[2];

    // A colour clamped at zero passes no gradient.
    const float shown[3] = {g.red, g.green, g.blue};
    for (int c = 0; c < 3; ++c) {
        if (!(shown[c] > 0.0f)) d_color[c] = 0.0f;
        d_sh0[3 * i + c] = 0.28209479177387814f * d_color[c];
    }
    const int used = degree > 0 ? (degree + 1) * (degree + 1) - 1 : 0;
    if (degree > 0) sh_backward(degree, cam, mean, d_color, rest, d_mean);
    for (int k = 3 * used; k < 3 * rest_count; ++k) rest[k] = 0.0f;
    for (int k = 0; k < 3; ++k) d_means[3 * i + k] = d_mean[k];
}

// One thread a Gaussian. Turns the gradient of its record into that of its parameters;
// writes zeros where it was not seen. The higher harmonics, three quarters of all bytes,
// go through shared memory so that a warp reads and writes whole lines.
extern "C" __global__ void __launch_bounds__(BACKWARD_THREADS) project_backward(
    int count, int rest_count, int degree, int antialiased, const CameraView* __restrict__ camera,
    const float* __restrict__ means, const float* __restrict__ log_scales, const float* __restrict__ quats,
    const float4* __restrict__ records, const int* __restrict__ tile_counts,
    const float* __restrict__ sh_rest, const float4* __restrict__ record_gradients,
    float* __restrict__ d_means, float* __restrict__ d_log_scales, float* __restrict__ d_quats,
    float* __restrict__ d_opacity_logits, float* __restrict__ d_sh0, float* __restrict__ d_sh_rest,
    float* __restrict__ mean2d_norms
) {
    __shared__ float harmonics[BACKWARD_THREADS * 45];
    const int first = blockIdx.x * BACKWARD_THREADS;
    const int floats = 3 * rest_count, total = min(BACKWARD_THREADS, count - first) * floats;
    const size_t offset = (size_t)first * floats;
    for (int k = threadIdx.x; k < total; k += BACKWARD_THREADS) harmonics[k] = sh_rest[offset + k];
    __syncthreads();
    const int i = first + threadIdx.x;
    if (i < count)
        gaussian_backward(
            i, rest_count, degree, antialiased, *camera, means, log_scales, quats, records, tile_counts,
            record_gradients, harmonics + threadIdx.x * floats, d_means, d_log_scales, d_quats,
            d_opacity_logits, d_sh0, mean2d_norms);
    __syncthreads();
    for (int k = threadIdx.x; k < total; k += BACKWARD_THREADS) d_sh_rest[offset + k] = harmonics[k];
}
