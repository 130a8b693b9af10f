// A job's events over server-sent events. The browser reconnects by itself with the last
// id it saw; where a stream cannot be had (a proxy that buffers, a refusal), the page polls.
import type { JobEvent, ProgressEventData, TaskEvent } from "../lib/types";

export type FeedEvent =
  | { type: "job"; data: JobEvent }
  | { type: "task"; data: TaskEvent }
  | { type: "progress"; data: ProgressEventData }
  | { type: "queue"; data: { position: number } };

export interface FeedHandlers {
  /** An event, each sequence once and in order. */
  onEvent(event: FeedEvent, sequence: number): void;
  /** Whether events arrive; while they do not, the page polls. */
  onLink(live: boolean): void;
  /** The job has ended and so has the stream. */
  onEnd(): void;
}

const TYPES = ["job", "task", "progress", "queue"] as const;
const REOPEN_MS = 15_000;
const OPEN_WITHIN_MS = 6000;

export class Feed {
  private source: EventSource | null = null;
  private timer = 0;
  private stopped = false;

  constructor(
    private readonly jobId: string,
    private lastSequence: number,
    private readonly handlers: FeedHandlers,
  ) {}

  start(): void {
    const path = `/recon/jobs/${encodeURIComponent(this.jobId)}/events`;
    // Where the browser reconnects by itself, its Last-Event-ID header outdoes `after`.
    const source = new EventSource(this.lastSequence > 0 ? `${path}?after=${this.lastSequence}` : path);
    this.source = source;
    for (const type of TYPES)
      source.addEventListener(type, (message: MessageEvent<string>) => this.receive(type, message));
    source.addEventListener("end", () => {
      this.stop();
      this.handlers.onEnd();
    });
    source.addEventListener("open", () => {
      clearTimeout(this.timer);
      this.handlers.onLink(true);
    });
    source.addEventListener("error", () => {
      if (this.stopped) return;
      this.handlers.onLink(false);
      if (source.readyState === EventSource.CLOSED) this.reopenLater(REOPEN_MS);
    });
    this.timer = window.setTimeout(() => {
      if (source.readyState !== EventSource.OPEN) this.handlers.onLink(false);
    }, OPEN_WITHIN_MS);
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  private reopenLater(delay: number): void {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => {
      this.source?.close();
      this.start();
    }, delay);
  }

  private receive(type: (typeof TYPES)[number], message: MessageEvent<string>): void {
    const sequence = Number(message.lastEventId);
    // A stream that was opened anew tells the past again.
    if (Number.isFinite(sequence) && sequence > 0) {
      if (sequence <= this.lastSequence) return;
      this.lastSequence = sequence;
    }
    let data: unknown;
    try {
      data = JSON.parse(message.data);
    } catch {
      return; // A line cut by a proxy: the next status has what it said.
    }
    this.handlers.onEvent({ type, data } as FeedEvent, sequence);
  }
}
