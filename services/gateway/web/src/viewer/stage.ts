// The 3D stage: scene, camera and controls. It draws only when something has changed.
import { SplatFileType, SplatMesh } from "@sparkjsdev/spark";
import { Group, MathUtils, MOUSE, PerspectiveCamera, Raycaster, Scene, TOUCH, Vector2, Vector3 } from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { reducedMotion } from "../lib/dom";
import { type FileType, isAntialiased } from "./files";
import { type Centres, type Frame, frame, pick } from "./framing";
import { Screen } from "./screen";

const FOV_Y = 50; // Degrees, in landscape.
const SETTLED_MS = 160; // Nothing asked for a frame during this time.
const SLOW_FRAME_MS = 42; // Slower than this while moving: fewer pixels until it rests.
const LEAST_SCALE = 0.45;
const FLIGHT_MS = 420;
const PICK_BLUR = 0.002; // Radians, about two pixels.
const MOST_BREAKS = 3; // A screen that breaks down more often than this …
const BREAKS_MS = 60_000; // … within this time is not replaced any more.
const BREATHER_MS = 300; // For a card that starts anew.

const TYPES: Record<FileType, SplatFileType> = {
  spz: SplatFileType.SPZ,
  splat: SplatFileType.SPLAT,
  ply: SplatFileType.PLY,
};

interface Flight {
  start: number;
  position: [Vector3, Vector3];
  target: [Vector3, Vector3];
}

export interface StageEvents {
  /** Whether the picture rests. */
  onSettled(settled: boolean): void;
  /** The graphics card took the context away, again and again. */
  onLost(): void;
}

export class Stage {
  private readonly scene = new Scene();
  private readonly camera = new PerspectiveCamera(FOV_Y, 1, 0.01, 1000);
  private screen: Screen;
  private controls: OrbitControls;
  /** Turns COLMAP's axes (x right, y down, z ahead) to three's (y up, z towards the eye). */
  private readonly upright = new Group();
  private centres: Centres = {
    positions: new Float32Array(),
    opacities: new Float32Array(),
    sizes: new Float32Array(),
  };
  private mesh: SplatMesh | null = null;
  private compensated = false;
  private disposed = false;
  private breaks: number[] = [];
  private readonly resized = new ResizeObserver(() => this.resize());
  private flight: Flight | null = null;
  private frameId = 0;
  private settleTimer = 0;
  private lastFrameAt = 0;
  private slowness = 0;
  private scale = 1;
  private movingScale = 1;

  /** Fills `box`, which stays when the canvas in it has to be replaced. */
  constructor(
    private readonly box: HTMLElement,
    private readonly events: StageEvents,
  ) {
    this.upright.rotation.x = Math.PI;
    this.scene.add(this.upright, this.camera);
    this.screen = this.makeScreen();
    this.controls = this.makeControls();
    this.resized.observe(box);
    this.resize();
  }

  /**
   * Decodes a file and shows it instead of what was there; answers how many splats there are.
   * The first one is looked at from a place that fits it; after that the camera stays.
   */
  async load(data: Uint8Array<ArrayBuffer>, type: FileType): Promise<number> {
    this.compensated = await isAntialiased(data, type);
    // Without extSplats the centres are float16, which distorts scenes away from the origin.
    const mesh = new SplatMesh({ fileBytes: data, fileType: TYPES[type], extSplats: true });
    await mesh.initialized;
    if (this.disposed) {
      mesh.dispose();
      return 0;
    }
    this.screen.blur(this.compensated);
    const first = this.centres.opacities.length === 0;
    this.showInstead(mesh);
    if (first) this.reset(false);
    else {
      this.measure();
      this.draw();
    }
    return this.centres.opacities.length;
  }

  /** Gives the graphics card back what it holds. */
  dispose(): void {
    this.disposed = true;
    this.pause();
    this.resized.disconnect();
    this.controls.dispose();
    this.screen.dispose(() => this.mesh?.dispose());
  }

  /** Back to the first view. */
  reset(animated = true): void {
    const { position, target } = this.measure();
    this.fly(new Vector3(...position), new Vector3(...target), animated);
  }

  /** Turns by angles in radians. */
  turn(left: number, up: number): void {
    this.flight = null;
    this.controls.rotateLeft(left);
    this.controls.rotateUp(up);
    this.draw();
  }

  /** Pans by CSS pixels. */
  pan(x: number, y: number): void {
    this.flight = null;
    this.controls.pan(x, y);
    this.draw();
  }

  /** Zooms in by a factor above 1, out by one below. */
  zoom(factor: number): void {
    this.flight = null;
    const offset = this.camera.position.clone().sub(this.controls.target);
    const { minDistance, maxDistance } = this.controls;
    offset.setLength(MathUtils.clamp(offset.length() / factor, minDistance, maxDistance));
    this.fly(offset.add(this.controls.target), this.controls.target.clone(), true);
  }

  /** Makes the point under a place on the canvas the one to turn around. */
  focus(clientX: number, clientY: number): void {
    const box = this.box.getBoundingClientRect();
    const place = new Vector2(
      ((clientX - box.left) / box.width) * 2 - 1,
      1 - ((clientY - box.top) / box.height) * 2,
    );
    const caster = new Raycaster();
    caster.setFromCamera(place, this.camera);
    const { origin, direction } = caster.ray;
    const point = pick(this.centres, origin.toArray(), direction.toArray(), PICK_BLUR);
    if (!point) return;
    const target = new Vector3(...point);
    const offset = this.camera.position.clone().sub(this.controls.target);
    const distance = this.camera.position.distanceTo(target) * 0.7;
    offset.setLength(Math.max(distance, this.controls.minDistance));
    this.fly(offset.add(target), target, true);
  }

  /** Asks for a frame. */
  draw(): void {
    if (this.disposed || this.screen.broken) return;
    clearTimeout(this.settleTimer);
    this.settleTimer = 0;
    this.events.onSettled(false);
    if (this.frameId === 0) this.frameId = requestAnimationFrame((time) => this.tick(time));
  }

  private pause(): void {
    cancelAnimationFrame(this.frameId);
    clearTimeout(this.settleTimer);
    this.frameId = 0;
  }

  private makeScreen(): Screen {
    const screen = new Screen(this.box, {
      onDirty: () => this.draw(),
      onBroken: () => this.breaksDown(),
    });
    screen.blur(this.compensated);
    this.scene.add(screen.spark);
    return screen;
  }

  /** Puts a new screen in the place of a broken one; scene and camera stay. */
  private breaksDown(): void {
    const now = performance.now();
    this.breaks = [...this.breaks.filter((at) => now - at < BREAKS_MS), now];
    this.pause();
    this.events.onSettled(false);
    if (this.breaks.length > MOST_BREAKS) this.events.onLost();
    else window.setTimeout(() => this.replaceScreen(), BREATHER_MS);
  }

  private replaceScreen(): void {
    if (this.disposed) return;
    if (document.visibilityState === "hidden") {
      // A browser that saves memory takes it from the pages nobody sees.
      document.addEventListener("visibilitychange", () => this.replaceScreen(), { once: true });
      return;
    }
    const { target } = this.controls;
    this.pause();
    this.controls.dispose();
    this.scene.remove(this.screen.spark);
    this.screen.dispose();
    try {
      this.screen = this.makeScreen();
    } catch {
      this.events.onLost(); // The browser gives no further context.
      return;
    }
    this.controls = this.makeControls();
    this.controls.target.copy(target);
    if (this.mesh) this.measure();
    this.resize();
  }

  private showInstead(mesh: SplatMesh): void {
    this.upright.add(mesh);
    if (this.mesh) {
      this.upright.remove(this.mesh);
      this.mesh.dispose();
    }
    this.mesh = mesh;
    this.upright.updateMatrixWorld(true);
    this.centres = centresOf(mesh);
  }

  /** How near and far one may go in a scene of this size; answers its first view. */
  private measure(): Frame {
    const home = frame(this.centres, MathUtils.degToRad(this.camera.fov), this.camera.aspect);
    this.camera.near = home.radius * 0.004;
    this.camera.far = home.radius * 400;
    this.camera.updateProjectionMatrix();
    this.controls.minDistance = home.radius * 0.02;
    this.controls.maxDistance = home.radius * 30;
    return home;
  }

  private makeControls(): OrbitControls {
    const controls = new OrbitControls(this.camera, this.screen.canvas);
    controls.mouseButtons = { LEFT: MOUSE.ROTATE, MIDDLE: MOUSE.DOLLY, RIGHT: MOUSE.PAN };
    controls.touches = { ONE: TOUCH.ROTATE, TWO: TOUCH.DOLLY_PAN };
    controls.enableDamping = !reducedMotion();
    controls.dampingFactor = 0.14;
    controls.screenSpacePanning = true;
    controls.addEventListener("start", () => {
      this.flight = null;
      this.draw();
    });
    controls.addEventListener("change", () => this.draw());
    return controls;
  }

  private resize(): void {
    const { clientWidth: width, clientHeight: height } = this.box;
    if (width === 0 || height === 0) return;
    this.camera.aspect = width / height;
    // A phone held upright would see a narrow slit of the scene otherwise.
    const portrait = Math.min(1, this.camera.aspect);
    this.camera.fov = MathUtils.lerp(FOV_Y * 1.3, FOV_Y, portrait);
    this.camera.updateProjectionMatrix();
    this.applyScale(this.scale, true);
    this.draw();
  }

  private applyScale(scale: number, force = false): void {
    if (scale === this.scale && !force) return;
    this.scale = scale;
    this.screen.resize(this.box.clientWidth, this.box.clientHeight, scale);
  }

  private tick(time: number): void {
    this.frameId = 0;
    this.advanceFlight(time);
    const moving = this.controls.update() || this.flight !== null;
    this.adapt(time, moving);
    this.screen.draw(this.scene, this.camera);
    this.lastFrameAt = time;
    if (this.flight) this.draw();
    else if (this.frameId === 0) this.settleSoon();
  }

  /** Fewer pixels while a slow machine moves, all of them once it rests. */
  private adapt(time: number, moving: boolean): void {
    const passed = time - this.lastFrameAt;
    if (moving && passed < 1000) {
      this.slowness = 0.7 * this.slowness + 0.3 * passed;
      if (this.slowness > SLOW_FRAME_MS && this.movingScale > LEAST_SCALE) {
        this.movingScale = Math.max(LEAST_SCALE, this.movingScale * 0.8);
        this.slowness = SLOW_FRAME_MS * 0.6; // Judge the new size anew.
      }
      this.applyScale(this.movingScale);
    }
  }

  private settleSoon(): void {
    clearTimeout(this.settleTimer);
    this.settleTimer = window.setTimeout(() => {
      if (this.screen.sorting) {
        this.settleSoon();
      } else if (this.scale !== 1) {
        this.applyScale(1);
        this.draw();
      } else {
        this.events.onSettled(true);
      }
    }, SETTLED_MS);
  }

  private fly(position: Vector3, target: Vector3, animated: boolean): void {
    if (!animated || reducedMotion()) {
      this.flight = null;
      this.camera.position.copy(position);
      this.controls.target.copy(target);
    } else {
      this.flight = {
        start: performance.now(),
        position: [this.camera.position.clone(), position],
        target: [this.controls.target.clone(), target],
      };
    }
    this.draw();
  }

  private advanceFlight(time: number): void {
    const { flight } = this;
    if (!flight) return;
    const share = MathUtils.clamp((time - flight.start) / FLIGHT_MS, 0, 1);
    const eased = 1 - (1 - share) ** 3;
    this.camera.position.lerpVectors(...flight.position, eased);
    this.controls.target.lerpVectors(...flight.target, eased);
    if (share >= 1) this.flight = null;
  }
}

/** World centres, opacities and sizes of a mesh's splats. */
function centresOf(mesh: SplatMesh): Centres {
  const total = mesh.splats?.getNumSplats() ?? 0;
  const positions = new Float32Array(3 * total);
  const opacities = new Float32Array(total);
  const sizes = new Float32Array(total);
  const world = new Vector3();
  mesh.forEachSplat((index, centre, scales, _quaternion, opacity) => {
    world
      .copy(centre)
      .applyMatrix4(mesh.matrixWorld)
      .toArray(positions, 3 * index);
    opacities[index] = opacity;
    const { x, y, z } = scales;
    sizes[index] = x + y + z - Math.min(x, y, z) - Math.max(x, y, z);
  });
  return { positions, opacities, sizes };
}
