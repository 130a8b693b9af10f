// Buttons and panels over the stage.
import { copyText } from "../lib/copy";
import { byId, setText, show } from "../lib/dom";
import { icon } from "../lib/icons";
import type { Stage } from "./stage";

const PANELS: [button: string, panel: string][] = [
  ["download", "download-menu"],
  ["help", "help-panel"],
];
let toastTimer = 0;

/** A short word at the bottom. */
export function toast(text: string): void {
  setText(byId("toast"), text);
  show(byId("toast"), true);
  clearTimeout(toastTimer);
  toastTimer = window.setTimeout(() => show(byId("toast"), false), 2600);
}

/** Opens one panel, or closes all with null. */
export function openPanel(wanted: string | null): void {
  for (const [button, panel] of PANELS) {
    const open = panel === wanted;
    show(byId(panel), open);
    byId(button).setAttribute("aria-expanded", String(open));
  }
}

export function togglePanel(panel: string): void {
  openPanel(byId(panel).hidden ? panel : null);
}

export function toggleFullscreen(): void {
  if (document.fullscreenElement) void document.exitFullscreen();
  else
    void document.documentElement.requestFullscreen?.().catch(() => toast("Fullscreen is not allowed here"));
}

async function share(): Promise<void> {
  const url = location.origin + location.pathname;
  if (navigator.share && matchMedia("(pointer: coarse)").matches) {
    // Rejected when the person closes the sheet: nothing to say then.
    await navigator.share({ title: document.title, url }).catch(() => undefined);
    return;
  }
  toast((await copyText(url)) ? "Link copied" : url);
}

/** Connects the toolbar; call it once, when the scene is there. */
export function wireHud(stage: Stage, box: HTMLElement): void {
  for (const name of ["reset", "fullscreen", "share", "download", "help"] as const)
    byId(name).append(icon(name));
  show(byId("fullscreen"), document.fullscreenEnabled);
  byId("reset").addEventListener("click", () => stage.reset());
  byId("fullscreen").addEventListener("click", toggleFullscreen);
  byId("share").addEventListener("click", () => void share());
  for (const [button, panel] of PANELS) byId(button).addEventListener("click", () => togglePanel(panel));
  box.addEventListener("pointerdown", () => openPanel(null));
  show(byId("hud"), true);
}

/** Says once how to move; gone at the first touch or after a while. */
export function showHint(box: HTMLElement): void {
  const hint = byId("hint");
  show(hint, true);
  const hide = () => hint.classList.add("is-gone");
  box.addEventListener("pointerdown", hide, { once: true });
  box.addEventListener("wheel", hide, { once: true, passive: true });
  window.addEventListener("keydown", hide, { once: true });
  window.setTimeout(hide, 7000);
}
