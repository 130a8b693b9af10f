// The scene as it sharpens: a picture that the trainer renders every few seconds.
import { show } from "../lib/dom";
import type { JobInfo } from "../lib/types";

const PAUSE_MS = 3000;

export class Preview {
  private askedAt = 0;

  constructor(private readonly image: HTMLImageElement) {}

  /** Asks for a newer picture when there may be one; keeps the old one until that is here. */
  update(info: JobInfo): void {
    if (info.status !== "PROCESSING") {
      show(this.image, false);
      return;
    }
    if (info.stage !== "train" || !info.training || Date.now() - this.askedAt < PAUSE_MS) return;
    this.askedAt = Date.now();
    const next = new Image();
    next.onload = () => {
      this.image.src = next.src;
      show(this.image, true);
    };
    const path = `/recon/jobs/${encodeURIComponent(info.job_id)}/artifacts/preview.jpg`;
    next.src = `${path}?step=${info.training.iteration}`;
  }
}
