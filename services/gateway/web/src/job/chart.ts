// The loss over the training, drawn on a small canvas.
import type { LossPoint } from "./model";

const SMOOTHING = 0.85;

export class Chart {
  private points: LossPoint[] = [];
  private total = 0;

  constructor(private readonly canvas: HTMLCanvasElement) {
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Shows the points; the axis runs to `total` steps. Answers first and newest smoothed loss. */
  update(points: LossPoint[], total: number): [number, number] | null {
    this.points = points;
    this.total = total;
    this.draw();
    const smooth = smoothed(points);
    const first = smooth.at(0);
    const last = smooth.at(-1);
    return first !== undefined && last !== undefined ? [first, last] : null;
  }

  private draw(): void {
    const { canvas, points } = this;
    const context = canvas.getContext("2d");
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!context || width === 0) return;
    const scale = Math.min(devicePixelRatio, 3);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    context.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    context.strokeStyle = colour("--line");
    context.lineWidth = 1;
    for (let i = 0; i < 4; i += 1) {
      const y = Math.round(6 + ((height - 12) * i) / 3) + 0.5;
      context.beginPath();
      context.moveTo(0, y);
      context.lineTo(width, y);
      context.stroke();
    }
    if (points.length < 2) return;
    const smooth = smoothed(points);
    // Spikes after an opacity reset must not flatten the rest.
    const sorted = points.map((point) => point.loss).sort((a, b) => a - b);
    const top = Math.max(smooth[0] ?? 0, sorted[Math.floor(sorted.length * 0.98)] ?? 0);
    const bottom = Math.min(sorted[0] ?? 0, ...smooth.slice(-1)) * 0.9;
    const end = Math.max(this.total, points.at(-1)?.iteration ?? 1, 1);
    const x = (iteration: number) => (iteration / end) * (width - 8) + 2;
    const y = (loss: number) =>
      6 + (1 - (Math.min(loss, top) - bottom) / (top - bottom || 1)) * (height - 12);
    const line = (values: number[], stroke: string, thickness: number) => {
      context.strokeStyle = stroke;
      context.lineWidth = thickness;
      context.lineJoin = "round";
      context.beginPath();
      values.forEach((value, index) => {
        context.lineTo(x(points[index]?.iteration ?? 0), y(value));
      });
      context.stroke();
    };
    line(
      points.map((point) => point.loss),
      colour("--accent-soft"),
      1.5,
    );
    line(smooth, colour("--accent"), 2.5);
    const last = points.at(-1);
    if (!last) return;
    context.fillStyle = colour("--accent");
    context.beginPath();
    context.arc(x(last.iteration), y(smooth.at(-1) ?? last.loss), 4, 0, 2 * Math.PI);
    context.fill();
  }
}

/** Exponential moving average, started at the first value. */
function smoothed(points: LossPoint[]): number[] {
  let average = points[0]?.loss ?? 0;
  return points.map(({ loss }, index) => {
    const weight = Math.min(SMOOTHING, index / (index + 1));
    average = weight * average + (1 - weight) * loss;
    return average;
  });
}
