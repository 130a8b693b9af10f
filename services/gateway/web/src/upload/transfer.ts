// One upload. XMLHttpRequest, because fetch tells nothing of what has been sent.
import { ApiError, errorFromBody } from "../lib/api";
import type { CreatedJob } from "../lib/types";

export interface Sent {
  bytes: number;
  total: number;
  /** Over the last seconds; null until there is something to say. */
  bytesPerSecond: number | null;
}

const SPEED_WINDOW_MS = 4000;

/** Thrown when the person stopped the upload. */
export class Aborted extends Error {}

/** Bytes a second over a sliding window. */
export class Speedometer {
  private readonly marks: [time: number, bytes: number][] = [];

  add(time: number, bytes: number): number | null {
    this.marks.push([time, bytes]);
    while (this.marks.length > 2 && (this.marks[0]?.[0] ?? 0) < time - SPEED_WINDOW_MS) this.marks.shift();
    const [first] = this.marks;
    if (!first || time - first[0] < 250) return null;
    return ((bytes - first[1]) * 1000) / (time - first[0]);
  }
}

/** Posts the form; `onSent` hears how far it is. */
export function upload(
  form: FormData,
  onSent: (sent: Sent) => void,
): { done: Promise<CreatedJob>; abort: () => void } {
  const request = new XMLHttpRequest();
  const done = new Promise<CreatedJob>((resolve, reject) => {
    const speed = new Speedometer();
    request.upload.addEventListener("progress", (event) => {
      onSent({
        bytes: event.loaded,
        total: event.total,
        bytesPerSecond: speed.add(performance.now(), event.loaded),
      });
    });
    request.addEventListener("load", () => {
      if (request.status < 200 || request.status > 299) {
        reject(new ApiError(request.status, errorFromBody(request.status, request.responseText)));
        return;
      }
      try {
        resolve(JSON.parse(request.responseText) as CreatedJob);
      } catch {
        reject(new ApiError(request.status, errorFromBody(502, "")));
      }
    });
    request.addEventListener("abort", () => reject(new Aborted("stopped")));
    request.addEventListener("error", () =>
      reject(
        new ApiError(0, {
          reason: "UPLOAD_INTERRUPTED",
          message: "The connection broke before everything was sent.",
          remedy: "Your photos are still chosen: check the connection and start again.",
          retryable: true,
        }),
      ),
    );
  });
  request.open("POST", "/recon/jobs");
  request.setRequestHeader("Accept", "application/json");
  request.send(form);
  return { done, abort: () => request.abort() };
}

/** Keeps a phone's screen on, since a locked one stops uploads; does nothing where it cannot. */
export async function keepAwake(): Promise<() => void> {
  try {
    const lock = await navigator.wakeLock.request("screen");
    return () => void lock.release();
  } catch {
    return () => undefined;
  }
}
