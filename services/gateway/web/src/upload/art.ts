// Draws the windmill: a painter's-algorithm splat renderer on a 2D canvas. It sways, its
// sails turn, and it flies apart while photos are held over the page.
import { reducedMotion } from "../lib/dom";
import { type Disc, HUB, HUES, windmill } from "./windmill";

const SHADES = 5;
const SPRITE = 64;
const FRAME_MS = 33;
const CAMERA_DISTANCE = 5.2;
const PITCH = 0.2;
const CENTRE_Y = 1.14;

/** A soft disc per hue and shade: drawing a scaled picture is far cheaper than a gradient. */
function sprites(): HTMLCanvasElement[][] {
  return HUES.map(([r, g, b]) =>
    Array.from({ length: SHADES }, (_, shade) => {
      const canvas = document.createElement("canvas");
      canvas.width = SPRITE;
      canvas.height = SPRITE;
      const context = canvas.getContext("2d");
      if (!context) return canvas;
      const light = 0.5 + (0.56 * shade) / (SHADES - 1);
      const rgb = [r, g, b].map((channel) => Math.min(255, Math.round(channel * light))).join(",");
      const half = SPRITE / 2;
      const gradient = context.createRadialGradient(half, half, 0, half, half, half);
      for (let i = 0; i <= 8; i += 1) {
        const x = (i / 8) * 2.6;
        gradient.addColorStop(
          i / 8,
          `rgba(${rgb},${i === 8 ? 0 : Math.min(1, 1.25 * Math.exp(-0.5 * x * x))})`,
        );
      }
      context.fillStyle = gradient;
      context.fillRect(0, 0, SPRITE, SPRITE);
      return canvas;
    }),
  );
}

interface Projected {
  x: number;
  y: number;
  depth: number;
  major: number;
  minor: number;
  angle: number;
  sprite: HTMLCanvasElement | null;
}

class Art {
  private readonly discs: Disc[] = windmill();
  private readonly sprites = sprites();
  private readonly context: CanvasRenderingContext2D | null;
  private readonly still = reducedMotion();
  private spread: number;
  private spreadTarget = 0;
  private lastFrame = 0;
  private visible = true;
  private frame = 0;

  constructor(private readonly canvas: HTMLCanvasElement) {
    this.context = canvas.getContext("2d");
    this.spread = this.still ? 0 : 1;
    new ResizeObserver(() => this.resize()).observe(canvas);
    new IntersectionObserver(([entry]) => {
      this.visible = entry?.isIntersecting ?? true;
      this.wake();
    }).observe(canvas);
    document.addEventListener("visibilitychange", () => this.wake());
  }

  /** Flies apart, or comes together again. */
  scatter(on: boolean): void {
    if (this.still) return;
    this.spreadTarget = on ? 0.55 : 0;
    this.wake();
  }

  private resize(): void {
    const scale = Math.min(devicePixelRatio, 2);
    this.canvas.width = Math.round(this.canvas.clientWidth * scale);
    this.canvas.height = Math.round(this.canvas.clientHeight * scale);
    this.draw(this.lastFrame / 1000); // At once: resizing has emptied the canvas.
    this.wake();
  }

  private wake(): void {
    if (this.still || !this.visible || document.hidden || this.frame !== 0) return;
    this.frame = requestAnimationFrame((time) => this.tick(time));
  }

  private tick(time: number): void {
    this.frame = 0;
    if (time - this.lastFrame >= FRAME_MS) {
      const passed = Math.min(100, time - this.lastFrame);
      this.lastFrame = time;
      this.spread += (this.spreadTarget - this.spread) * (1 - Math.exp(-passed / 320));
      this.draw(time / 1000);
    }
    this.wake();
  }

  private draw(seconds: number): void {
    const { context, canvas } = this;
    if (!context || canvas.width === 0) return;
    const yaw = this.still ? -0.42 : -0.3 + 0.32 * Math.sin(seconds * 0.35);
    const turn = seconds * 0.5;
    const shapes = this.discs.map((disc) => this.project(disc, yaw, turn));
    shapes.sort((a, b) => b.depth - a.depth);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1 - 0.35 * this.spread;
    for (const shape of shapes) {
      const cos = Math.cos(shape.angle);
      const sin = Math.sin(shape.angle);
      const { major, minor, sprite } = shape;
      if (!sprite) continue;
      context.setTransform(cos * minor, sin * minor, -sin * major, cos * major, shape.x, shape.y);
      context.drawImage(sprite, -1, -1, 2, 2);
    }
  }

  /** Screen ellipse of a disc: the normal's projection is its minor axis. */
  private project(disc: Disc, yaw: number, turn: number): Projected {
    let [x, y, z] = disc.position;
    let [nx, ny, nz] = disc.normal;
    if (disc.sail) {
      const c = Math.cos(turn);
      const s = Math.sin(turn);
      const dx = x - HUB[0];
      const dy = y - HUB[1];
      [x, y] = [HUB[0] + dx * c - dy * s, HUB[1] + dx * s + dy * c];
      [nx, ny] = [nx * c - ny * s, nx * s + ny * c];
    }
    const away = this.spread * 2.4;
    x += disc.random[0] * away + x * away * 0.25;
    y += disc.random[1] * away * 0.8 - CENTRE_Y;
    z += disc.random[2] * away + z * away * 0.25;
    const cy = Math.cos(yaw);
    const sy = Math.sin(yaw);
    const light = Math.max(0, nx * 0.42 + ny * 0.62 + nz * 0.66);
    [x, z] = [x * cy + z * sy, z * cy - x * sy];
    [nx, nz] = [nx * cy + nz * sy, nz * cy - nx * sy];
    const cp = Math.cos(PITCH);
    const sp = Math.sin(PITCH);
    [y, z] = [y * cp - z * sp, z * cp + y * sp];
    [ny, nz] = [ny * cp - nz * sp, nz * cp + ny * sp];
    const depth = CAMERA_DISTANCE - z;
    const focal = Math.min(this.canvas.height * 1.4, this.canvas.width * 1.62);
    const scale = focal / depth;
    const major = disc.radius * scale * (1 + this.spread * 0.4) * 1.3;
    const shade = Math.min(SHADES - 1, Math.round(light * (SHADES - 1)));
    const sprite = this.sprites[disc.hue]?.[shade] ?? null;
    return {
      x: this.canvas.width / 2 + x * scale,
      y: this.canvas.height / 2 - y * scale,
      depth,
      major,
      minor: major * Math.max(0.3, Math.abs(nz)),
      angle: Math.atan2(-ny, nx),
      sprite,
    };
  }
}

/** Starts the picture on a canvas. */
export function startArt(canvas: HTMLCanvasElement): { scatter: (on: boolean) => void } {
  return new Art(canvas);
}
