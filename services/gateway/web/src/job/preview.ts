// The scene as it sharpens: a picture every few seconds, and on request a splat to look around in.
import { call } from "../lib/api";
import { byId, setText, show } from "../lib/dom";
import { count } from "../lib/format";
import type { JobInfo } from "../lib/types";
import { hasWebGl2 } from "../lib/webgl";
import type { LiveView } from "./live";

const PAUSE_MS = 3000;
const PICTURE = "preview.jpg";
const SPLAT = "preview.spz";
const HOW = "Drag to turn, right-drag to pan, scroll to zoom.";

export class Preview {
  private readonly box = byId("preview-box");
  private readonly image = byId<HTMLImageElement>("preview");
  private readonly note = byId("preview-note");
  private readonly button = byId<HTMLButtonElement>("look-around");
  private canShow: boolean | null = null;
  private info: JobInfo | null = null;
  private askedAt = 0;
  private names: string[] = [];
  private live: LiveView | null = null;
  /** Counts what was opened, so that what loads late is not shown after it was closed. */
  private opened = 0;

  constructor() {
    this.button.addEventListener("click", () => {
      if (this.box.dataset.live === "off") void this.open();
      else this.close();
    });
  }

  /** Asks for newer ones when there may be some; keeps the old ones until those are here. */
  update(info: JobInfo): void {
    this.info = info;
    if (info.status !== "PROCESSING") {
      this.end(info);
      return;
    }
    if (info.stage !== "train" || !info.training || Date.now() - this.askedAt < PAUSE_MS) return;
    this.askedAt = Date.now();
    if (document.visibilityState === "hidden") return;
    if (!this.names.includes(PICTURE) || !this.names.includes(SPLAT)) void this.lookFor();
    else this.refresh();
  }

  /** No more will come. Whoever looks around may stay, unless the scene was broken off. */
  private end(info: JobInfo): void {
    this.names = [];
    show(this.image, false);
    if (this.box.dataset.live === "ready" && info.status === "COMPLETED") {
      setText(this.note, "The training is done. The viewer shows the whole scene.");
      setText(this.button, "Close");
      return;
    }
    if (this.box.dataset.live !== "off") this.close();
    show(this.box, false);
  }

  private path(name: string): string {
    return `/recon/jobs/${encodeURIComponent(this.info?.job_id ?? "")}/artifacts/${name}`;
  }

  /** Browsers complain loudly of a file that is not there yet, so the list of files is asked first. */
  private async lookFor(): Promise<void> {
    try {
      const answer = await call<{ artifacts: { name: string }[] }>(this.path("").slice(0, -1));
      this.names = answer.artifacts.map((file) => file.name);
      if (this.names.includes(PICTURE)) this.refresh();
    } catch {
      // The page's own feed says what is wrong.
    }
  }

  private refresh(): void {
    if (this.live) {
      void this.refreshLive(this.live).catch(() => this.fail());
      return;
    }
    const next = new Image();
    next.onload = () => {
      if (this.info?.status !== "PROCESSING") return;
      this.image.src = next.src;
      show(this.box, true);
      show(this.image, this.box.dataset.live !== "ready");
      if (this.names.includes(SPLAT)) show(this.button, (this.canShow ??= hasWebGl2()));
    };
    next.src = `${this.path(PICTURE)}?step=${this.info?.training?.iteration ?? 0}`;
  }

  /** The viewer's engine comes only now: most visitors just want to know how long it takes. */
  private async open(): Promise<void> {
    this.opened += 1;
    const { opened } = this;
    this.box.dataset.live = "loading";
    this.box.dataset.settled = "false";
    setText(this.button, "Back to the picture");
    setText(this.note, "Loading the scene …");
    try {
      const { LiveView } = await import("./live");
      if (opened !== this.opened) return;
      this.live = new LiveView(this.box, {
        onSettled: (settled) => {
          this.box.dataset.settled = String(settled);
        },
        onLost: () => this.fail(),
      });
      await this.refreshLive(this.live);
    } catch {
      if (opened === this.opened) this.fail();
    }
  }

  private async refreshLive(live: LiveView): Promise<void> {
    const splats = await live.refresh(this.path(SPLAT));
    if (!splats || live !== this.live) return; // Nothing new, or nothing to be seen yet.
    this.box.dataset.live = "ready";
    this.box.dataset.loads = String(Number(this.box.dataset.loads ?? 0) + 1);
    show(this.image, false);
    const all = this.info?.training?.gaussian_count ?? splats;
    const what = all > splats ? `${count(splats)} splats that stand for ${count(all)}` : "All splats";
    if (this.info?.status === "PROCESSING") setText(this.note, `${what}. ${HOW}`);
  }

  private fail(): void {
    this.close();
    setText(this.note, "This browser could not show the scene; the picture goes on.");
  }

  private close(): void {
    this.opened += 1;
    this.live?.close();
    this.live = null;
    this.box.dataset.live = "off";
    setText(this.button, "Look around");
    setText(this.note, "");
    const running = this.info?.status === "PROCESSING";
    show(this.image, running && this.image.src !== "");
    show(this.box, running);
    this.askedAt = 0;
  }
}
