// Keys, double click and double tap. Drag, wheel and pinch are the controls' own.
import type { Stage } from "./stage";

const STEP = Math.PI / 36; // 5 degrees a key press.
const PAN = 40; // CSS pixels a key press.
const ZOOM = 1.2;
const TAP_MS = 320;
const TAP_PX = 28;

export interface Actions {
  toggleFullscreen(): void;
  toggleHelp(): void;
  closePanels(): void;
}

/** Connects keyboard and double taps to the stage in `box`; `keys` is what hears the keys. */
export function wireInput(
  box: HTMLElement,
  stage: Stage,
  actions: Actions,
  keys: Window | HTMLElement = window,
): void {
  keys.addEventListener("keydown", (event) => {
    if (!(event instanceof KeyboardEvent)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLInputElement) return;
    if (onKey(event, stage, actions)) event.preventDefault();
  });
  box.addEventListener("dblclick", (event) => stage.focus(event.clientX, event.clientY));
  wireDoubleTap(box, stage);
}

function onKey(event: KeyboardEvent, stage: Stage, actions: Actions): boolean {
  const arrows: Record<string, [number, number]> = {
    ArrowLeft: [1, 0],
    ArrowRight: [-1, 0],
    ArrowUp: [0, 1],
    ArrowDown: [0, -1],
  };
  const arrow = arrows[event.key];
  if (arrow) {
    if (event.shiftKey) stage.pan(arrow[0] * PAN, arrow[1] * PAN);
    else stage.turn(arrow[0] * STEP, arrow[1] * STEP);
    return true;
  }
  switch (event.key) {
    case "+":
    case "=":
      stage.zoom(ZOOM);
      return true;
    case "-":
    case "_":
      stage.zoom(1 / ZOOM);
      return true;
    case "r":
    case "R":
      stage.reset();
      return true;
    case "f":
    case "F":
      actions.toggleFullscreen();
      return true;
    case "?":
    case "h":
    case "H":
      actions.toggleHelp();
      return true;
    case "Escape":
      actions.closePanels();
      return true;
    default:
      return false;
  }
}

/** Safari on a phone makes no dblclick where the page handles touches itself. */
function wireDoubleTap(box: HTMLElement, stage: Stage): void {
  let down: { x: number; y: number; time: number } | null = null;
  let last: { x: number; y: number; time: number } | null = null;
  const near = (a: { x: number; y: number }, b: { x: number; y: number }) =>
    Math.hypot(a.x - b.x, a.y - b.y) < TAP_PX;
  box.addEventListener("pointerdown", (event) => {
    down =
      event.pointerType === "touch" && event.isPrimary
        ? { x: event.clientX, y: event.clientY, time: event.timeStamp }
        : null;
  });
  box.addEventListener("pointerup", (event) => {
    if (!down || event.pointerType !== "touch" || !event.isPrimary) return;
    const up = { x: event.clientX, y: event.clientY, time: event.timeStamp };
    const tapped = near(up, down) && up.time - down.time < TAP_MS;
    if (tapped && last && near(up, last) && up.time - last.time < TAP_MS) {
      stage.focus(up.x, up.y);
      last = null;
    } else {
      last = tapped ? up : null;
    }
  });
}
