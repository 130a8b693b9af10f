// A little windmill made of soft discs: what a splat is, in about a thousand of them.

export interface Disc {
  /** Centre, y up; the tower stands at the origin and is 1.6 high. */
  readonly position: readonly [number, number, number];
  /** Unit normal of the disc. */
  readonly normal: readonly [number, number, number];
  readonly radius: number;
  /** Index into HUES. */
  readonly hue: number;
  /** Turns with the sails about the hub. */
  readonly sail: boolean;
  /** Fixed random numbers of this disc, for scattering. */
  readonly random: readonly [number, number, number];
}

/** Where the sails turn, about the z axis. */
export const HUB = [0, 1.62, 0.5] as const;

/** Base colours, sRGB. */
export const HUES: readonly (readonly [number, number, number])[] = [
  [244, 234, 214], // whitewash
  [206, 178, 142], // shaded wall
  [198, 84, 50], // brick and cap
  [122, 58, 44], // door, beams
  [240, 168, 64], // cloth, amber
  [228, 96, 60], // cloth, coral
  [96, 148, 92], // grass
  [60, 116, 92], // darker grass
  [38, 150, 140], // teal flowers, shutters
  [246, 206, 110], // yellow flowers
];

/** Small seeded generator, so that the mill is the same at every visit (mulberry32). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const GOLDEN = Math.PI * (3 - Math.sqrt(5));

class Builder {
  readonly discs: Disc[] = [];
  private readonly random = generator(7);

  push(
    position: readonly [number, number, number],
    normal: readonly [number, number, number],
    radius: number,
    hue: number,
    sail = false,
  ): void {
    const length = Math.hypot(...normal) || 1;
    this.discs.push({
      position,
      normal: [normal[0] / length, normal[1] / length, normal[2] / length],
      radius: radius * (0.85 + 0.3 * this.random()),
      hue,
      sail,
      random: [this.random() - 0.5, this.random() - 0.5, this.random() - 0.5],
    });
  }

  pick(): number {
    return this.random();
  }
}

function tower(builder: Builder): void {
  const count = 620;
  for (let i = 0; i < count; i += 1) {
    const height = 0.02 + 1.46 * (i / count);
    const angle = i * GOLDEN;
    const radius = 0.56 - 0.145 * height;
    const facing = Math.cos(angle - Math.PI / 2); // 1 straight ahead, +z.
    const door = facing > 0.93 && height < 0.46;
    const window = facing > 0.955 && height > 0.74 && height < 0.98;
    const side = Math.abs(Math.sin(angle)) < 0.3 && height > 0.55 && height < 0.72;
    const plinth = height < 0.16;
    const hue = door ? 3 : window || side ? 8 : plinth ? 2 : builder.pick() < 0.14 ? 1 : 0;
    const x = Math.cos(angle) * radius;
    const z = Math.sin(angle) * radius;
    builder.push([x, height, z], [x, 0.08, z], 0.088, hue);
  }
}

function cap(builder: Builder): void {
  const count = 130;
  for (let i = 0; i < count; i += 1) {
    const up = i / count;
    const ring = Math.sqrt(1 - up * up);
    const angle = i * GOLDEN;
    const x = Math.cos(angle) * ring;
    const z = Math.sin(angle) * ring;
    builder.push([x * 0.4, 1.47 + up * 0.36, z * 0.4], [x, up + 0.1, z], 0.09, builder.pick() < 0.2 ? 3 : 2);
  }
}

function sails(builder: Builder): void {
  for (let arm = 0; arm < 4; arm += 1) {
    const angle = arm * (Math.PI / 2) + 0.42;
    const along = [Math.cos(angle), Math.sin(angle)] as const;
    const across = [-along[1], along[0]] as const;
    const at = (distance: number, offset: number, depth: number) =>
      [
        HUB[0] + along[0] * distance + across[0] * offset,
        HUB[1] + along[1] * distance + across[1] * offset,
        HUB[2] + depth,
      ] as const;
    for (let i = 0; i < 22; i += 1) builder.push(at(0.05 + i * 0.049, 0, 0.02), [0, 0, 1], 0.036, 3, true);
    for (let i = 0; i < 13; i += 1) {
      for (let j = 0; j < 4; j += 1) {
        const offset = 0.06 + j * 0.075;
        builder.push(
          at(0.3 + i * 0.063, offset, 0.03 + offset * 0.25),
          [-across[0] * 0.25, -across[1] * 0.25, 1],
          0.068,
          arm % 2 === 0 ? 4 : 5,
          true,
        );
      }
    }
  }
  for (let i = 0; i < 14; i += 1) {
    const angle = i * GOLDEN;
    const r = 0.06 * Math.sqrt(i / 14);
    builder.push(
      [HUB[0] + Math.cos(angle) * r, HUB[1] + Math.sin(angle) * r, HUB[2] + 0.06],
      [0, 0, 1],
      0.05,
      3,
    );
  }
}

function ground(builder: Builder): void {
  const count = 460;
  for (let i = 0; i < count; i += 1) {
    const r = 1.32 * Math.sqrt((i + 0.5) / count);
    const angle = i * GOLDEN;
    const mound = 0.05 * Math.cos(r * 2.2);
    const flower = r > 0.6 && builder.pick() < 0.1;
    const hue = flower ? (builder.pick() < 0.5 ? 9 : 5) : builder.pick() < 0.4 ? 7 : 6;
    const y = mound - 0.06 + (flower ? 0.06 : 0);
    builder.push([Math.cos(angle) * r, y, Math.sin(angle) * r], [0, 1, 0.1], flower ? 0.05 : 0.165, hue);
  }
}

/** All discs of the mill. */
export function windmill(): Disc[] {
  const builder = new Builder();
  ground(builder);
  tower(builder);
  cap(builder);
  sails(builder);
  return builder.discs;
}
