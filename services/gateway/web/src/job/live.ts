// A look around in a scene that is still being trained. Newer splats take the place of older
// ones while the camera stays. It comes with the viewer's engine, so it is loaded on demand.
import { h } from "../lib/dom";
import { wireInput } from "../viewer/input";
import { Stage } from "../viewer/stage";

export interface LiveEvents {
  /** Whether the picture rests. */
  onSettled(settled: boolean): void;
  /** The graphics card took the context away. */
  onLost(): void;
}

export class LiveView {
  private readonly place: HTMLElement;
  private readonly stage: Stage;
  private etag: string | null = null;
  private busy = false;

  /** A stage of its own at the top of `box`. */
  constructor(box: HTMLElement, events: LiveEvents) {
    this.place = h("div", {
      class: "live-stage",
      tabindex: 0,
      role: "application",
      "aria-label": "The scene as it is now. Arrow keys turn it, plus and minus zoom, R resets.",
    });
    box.prepend(this.place);
    this.stage = new Stage(this.place, events);
    const actions = {
      toggleFullscreen: () => void this.place.requestFullscreen?.().catch(() => undefined),
      toggleHelp: () => undefined,
      closePanels: () => undefined,
    };
    // The page has keys of its own: only those pressed on the scene count.
    wireInput(this.place, this.stage, actions, this.place);
  }

  /** Shows the newest splat; answers how many Gaussians it has, or null when there is no newer one. */
  async refresh(path: string): Promise<number | null> {
    if (this.busy) return null;
    this.busy = true;
    try {
      const response = await fetch(path).catch(() => null);
      if (!response) return null; // The server restarts: what is there stays.
      const etag = response.headers.get("ETag");
      if (!response.ok || (etag !== null && etag === this.etag)) {
        await response.body?.cancel();
        return null; // The training has ended, or nothing is new.
      }
      const data = new Uint8Array(await response.arrayBuffer());
      const count = await this.stage.load(data, "spz");
      this.etag = etag;
      return count;
    } finally {
      this.busy = false;
    }
  }

  close(): void {
    this.stage.dispose();
    this.place.remove();
  }
}
