// Where to look from. A few floaters far outside make the bounding box useless, so the
// scene's size is read from percentiles of the splats' centres.

export interface Centres {
  /** World coordinates, x y z per splat, y up. */
  readonly positions: Float32Array; // [3 n]
  readonly opacities: Float32Array; // [n]
  /** Middle one of the three standard deviations. */
  readonly sizes: Float32Array; // [n]
}

type Vec3 = [number, number, number];

export interface Frame {
  target: Vec3;
  position: Vec3;
  /** Half diagonal of the percentile box, the scene's own unit of length. */
  radius: number;
}

const LOW = 0.06;
const HIGH = 0.94;
const SAMPLES = 60_000;
const MIN_OPACITY = 0.1;
const MARGIN = 1.12;
const CAMERAS = 5; // COLMAP's units from the origin to where most cameras are.
const BEHIND = 3; // And how far behind them the first view may be.
const STEEP = 0.64; // Sine of 40 degrees: cameras that stand higher were walked around the scene.
const ELEVATION = (28 * Math.PI) / 180; // From where people look at things on a table.

/** Percentiles of one axis over the splats that can be seen. */
function axisRange(centres: Centres, axis: number): { low: number; high: number } {
  const { positions, opacities } = centres;
  const total = opacities.length;
  const stride = Math.max(1, Math.floor(total / SAMPLES));
  const values: number[] = [];
  for (let i = 0; i < total; i += stride) {
    if ((opacities[i] ?? 0) >= MIN_OPACITY) values.push(positions[3 * i + axis] ?? 0);
  }
  if (values.length === 0) {
    for (let i = 0; i < total; i += stride) values.push(positions[3 * i + axis] ?? 0);
  }
  const sorted = Float32Array.from(values).sort();
  const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))] ?? 0;
  return { low: at(LOW), high: at(HIGH) };
}

/**
 * A first view of the scene.
 *
 * COLMAP puts the mean of the camera positions at the origin and scales the scene so that
 * 80 % of them span a box with a diagonal of 10. Where the origin lies outside the scene (a
 * facade, a landscape), the photographer's side is where it looks best from; where it lies
 * inside or high above (someone walked around it), the first camera's direction, -z, is
 * taken, and a little from above in the latter case. Far behind the cameras a scene looks
 * bad, so the distance ends a little behind where they can be.
 *
 * @param fovY vertical field of view in radians
 * @param aspect width / height of the canvas
 */
export function frame(centres: Centres, fovY: number, aspect: number): Frame {
  const ranges = [0, 1, 2].map((axis) => axisRange(centres, axis));
  const middle = ranges.map(({ low, high }) => (low + high) / 2) as Vec3;
  const half = ranges.map(({ low, high }) => (high - low) / 2) as Vec3;
  const radius = Math.max(Math.hypot(...half), 1e-4);
  const away = Math.hypot(...middle);
  const beyond = middle.some((value, axis) => Math.abs(value) > (half[axis] ?? 0) * 1.05);
  const above = beyond && -middle[1] / away > STEEP;
  const outside = beyond && !above;
  const direction: Vec3 = outside
    ? [-middle[0] / away, -middle[1] / away, -middle[2] / away]
    : above
      ? [0, Math.sin(ELEVATION), Math.cos(ELEVATION)]
      : [0, 0, 1];
  const tanY = Math.tan(fovY / 2);
  const fit = MARGIN * Math.max(half[1] / tanY, Math.max(half[0], outside ? half[2] : 0) / (tanY * aspect));
  const depth =
    Math.abs(direction[0]) * half[0] + Math.abs(direction[1]) * half[1] + Math.abs(direction[2]) * half[2];
  const wanted = fit + depth;
  const distance = Math.max(Math.min(wanted, outside ? away + BEHIND : CAMERAS + BEHIND), radius * 0.1);
  return {
    target: middle,
    position: [
      middle[0] + direction[0] * distance,
      middle[1] + direction[1] * distance,
      middle[2] + direction[2] * distance,
    ],
    radius,
  };
}

/**
 * The point where a ray is stopped: it is followed through the splats it crosses, as drawing
 * does, until half of its light is gone. Faint floaters in front are passed over.
 *
 * @param blur radius of the ray in radians, so that small splats can be met at all
 * @returns null where the ray meets nothing solid
 */
export function pick(centres: Centres, origin: Vec3, direction: Vec3, blur: number): Vec3 | null {
  const { positions, opacities, sizes } = centres;
  const hits: { along: number; alpha: number }[] = [];
  for (let i = 0; i < opacities.length; i += 1) {
    const opacity = opacities[i] ?? 0;
    if (opacity < 0.02) continue;
    const x = (positions[3 * i] ?? 0) - origin[0];
    const y = (positions[3 * i + 1] ?? 0) - origin[1];
    const z = (positions[3 * i + 2] ?? 0) - origin[2];
    const along = x * direction[0] + y * direction[1] + z * direction[2];
    if (along <= 0) continue;
    const off2 = x * x + y * y + z * z - along * along;
    const size = sizes[i] ?? 0;
    const variance = size * size + (blur * along) ** 2;
    if (off2 < 9 * variance) hits.push({ along, alpha: opacity * Math.exp((-0.5 * off2) / variance) });
  }
  hits.sort((a, b) => a.along - b.along);
  let light = 1;
  for (const { along, alpha } of hits) {
    light *= 1 - alpha;
    if (light < 0.5) {
      return [
        origin[0] + direction[0] * along,
        origin[1] + direction[1] * along,
        origin[2] + direction[2] * along,
      ];
    }
  }
  return null;
}
