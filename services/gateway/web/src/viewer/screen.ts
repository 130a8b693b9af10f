// What the graphics card holds: a canvas with its context, and the engine that draws into it.
// Either can break down; then the stage puts a new one in its place.
import { SparkRenderer } from "@sparkjsdev/spark";
import { type Camera, type Scene, WebGLRenderer } from "three";
import { h } from "../lib/dom";

const SORTED_MS = 3000; // Sorting under way ends within this time.
const BLUR = 0.3; // Pixels squared that training adds to each splat.

export interface ScreenEvents {
  /** The engine has news to draw. */
  onDirty(): void;
  /** The card took the context away, or the engine threw: nothing more is drawn. */
  onBroken(): void;
}

export class Screen {
  readonly canvas = h("canvas");
  readonly spark: SparkRenderer;
  private readonly renderer: WebGLRenderer;
  private isBroken = false;

  /** A canvas that fills `box`. */
  constructor(
    box: HTMLElement,
    private readonly events: ScreenEvents,
  ) {
    this.renderer = new WebGLRenderer({
      canvas: this.canvas,
      antialias: false,
      powerPreference: "high-performance",
    });
    this.renderer.setClearColor(0x0e0d0c, 1);
    this.spark = new SparkRenderer({ renderer: this.renderer, onDirty: () => events.onDirty() });
    this.blur(false);
    this.watchSorting();
    this.canvas.addEventListener("webglcontextlost", () => this.breaksDown());
    box.append(this.canvas);
  }

  /** Whether it draws nothing more. */
  get broken(): boolean {
    return this.isBroken;
  }

  /** Whether the engine sorts or will. */
  get sorting(): boolean {
    return this.spark.sorting || this.spark.sortDirty;
  }

  /**
   * Most scenes were trained with 0.3 pixels of blur and no compensation; drawing them
   * with the engine's default (blur with compensation) makes fine things fade.
   */
  blur(compensated: boolean): void {
    this.spark.preBlurAmount = compensated ? 0 : BLUR;
    this.spark.blurAmount = compensated ? BLUR : 0;
  }

  /** Sizes in CSS pixels; `scale` is the share of the screen's pixels to draw. */
  resize(width: number, height: number, scale: number): void {
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2) * scale);
    this.renderer.setSize(width, height, false);
  }

  draw(scene: Scene, camera: Camera): void {
    this.renderer.render(scene, camera);
  }

  /** Takes the canvas away and gives the card back what it holds; then `afterwards`. */
  dispose(afterwards: () => void = () => undefined): void {
    this.isBroken = true;
    this.canvas.remove();
    clearTimeout(this.spark.updateTimeoutId);
    clearTimeout(this.spark.sortTimeoutId);
    this.spark.sortDirty = false;
    this.release(performance.now() + SORTED_MS, afterwards);
  }

  /** The engine throws where nobody can catch it when what it sorts goes away meanwhile. */
  private release(deadline: number, afterwards: () => void): void {
    if (this.spark.sorting && performance.now() < deadline) {
      window.setTimeout(() => this.release(deadline, afterwards), 20);
      return;
    }
    afterwards();
    this.spark.dispose();
    this.renderer.dispose();
    this.renderer.forceContextLoss();
  }

  /** Once its sorting has thrown, the engine believes for ever that it sorts. */
  private watchSorting(): void {
    const engine = this.spark as unknown as { driveSort: () => Promise<void> };
    const sort = engine.driveSort.bind(this.spark);
    engine.driveSort = async () => {
      try {
        await sort();
      } catch {
        this.spark.sorting = false;
        this.breaksDown();
      }
    };
  }

  private breaksDown(): void {
    if (this.isBroken) return;
    this.isBroken = true;
    this.events.onBroken();
  }
}
