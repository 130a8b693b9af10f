// The scene as it sharpens: a picture that the trainer renders every few seconds.
import { call } from "../lib/api";
import { show } from "../lib/dom";
import type { JobInfo } from "../lib/types";

const PAUSE_MS = 3000;
const NAME = "preview.jpg";

export class Preview {
  private askedAt = 0;
  private there = false;

  constructor(private readonly image: HTMLImageElement) {}

  /** Asks for a newer picture when there may be one; keeps the old one until that is here. */
  update(info: JobInfo): void {
    if (info.status !== "PROCESSING") {
      show(this.image, false);
      return;
    }
    if (info.stage !== "train" || !info.training || Date.now() - this.askedAt < PAUSE_MS) return;
    this.askedAt = Date.now();
    const files = `/recon/jobs/${encodeURIComponent(info.job_id)}/artifacts`;
    if (this.there) this.load(`${files}/${NAME}?step=${info.training.iteration}`);
    else void this.lookFor(files);
  }

  /** Browsers complain loudly of a picture that is not there yet, so the list of files is asked first. */
  private async lookFor(files: string): Promise<void> {
    try {
      const answer = await call<{ artifacts: { name: string }[] }>(files);
      this.there = answer.artifacts.some((file) => file.name === NAME);
      if (this.there) this.load(`${files}/${NAME}`);
    } catch {
      // The page's own feed says what is wrong.
    }
  }

  private load(path: string): void {
    const next = new Image();
    next.onload = () => {
      this.image.src = next.src;
      show(this.image, true);
    };
    next.src = path;
  }
}
