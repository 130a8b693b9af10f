// The four steps from photos to web scene.
import { h, setText, show } from "../lib/dom";
import { count, duration, plural } from "../lib/format";
import { icon } from "../lib/icons";
import type { JobInfo, TaskInfo } from "../lib/types";

type Look = "todo" | "now" | "done" | "bad";

const STEPS: Record<string, string> = {
  prepare: "reading photos",
  extract: "finding features",
  match: "matching photos",
  map: "placing cameras",
  undistort: "straightening photos",
  train: "training",
  evaluate: "measuring quality",
  save: "saving",
  filter: "removing outliers",
  convert: "writing web formats",
};

/** A worker's step in words. */
export function stepText(step: string): string {
  return STEPS[step] ?? step.replaceAll("_", " ");
}

const metric = (task: TaskInfo, name: string): number | null => {
  const value = task.metrics?.[name];
  return typeof value === "number" ? value : null;
};

function elapsed(task: TaskInfo): string {
  if (!task.started_at || !task.finished_at) return "";
  const seconds = (Date.parse(task.finished_at) - Date.parse(task.started_at)) / 1000;
  return Number.isFinite(seconds) && seconds >= 0 ? duration(seconds) : "";
}

/** What a finished stage found. */
function outcome(task: TaskInfo): string {
  const parts: string[] = [];
  const registered = metric(task, "registered_images");
  const images = metric(task, "images");
  const points = metric(task, "points");
  const psnr = metric(task, "test_psnr");
  const gaussians = metric(task, "gaussian_count");
  const before = metric(task, "gaussian_count_before");
  if (registered !== null)
    parts.push(images !== null ? `${registered} of ${images} photos placed` : `${registered} photos placed`);
  if (points !== null) parts.push(plural(points, "point"));
  if (task.stage === "postproc" && gaussians !== null && before !== null) {
    parts.push(`${count(gaussians)} of ${count(before)} kept`);
  } else if (gaussians !== null) {
    parts.push(plural(gaussians, "Gaussian"));
  }
  if (psnr !== null && psnr > 0) parts.push(`${psnr.toFixed(1)} dB`);
  const time = elapsed(task);
  if (time) parts.push(time);
  return joined(parts);
}

/** Parts are kept whole where the line breaks. */
function joined(parts: string[]): string {
  return parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
}

function doing(task: TaskInfo, info: JobInfo): string {
  const { training } = info;
  const steps = task.stage === "train" && training;
  const parts = steps
    ? [`step ${count(training.iteration)} of ${count(training.iterations)}`]
    : [task.step ? stepText(task.step) : "starting"];
  if ((task.attempt ?? 1) > 1) parts.push(`attempt ${task.attempt}`);
  return joined(parts);
}

const LOOKS: Record<TaskInfo["state"], Look> = {
  BLOCKED: "todo",
  QUEUED: "todo",
  LEASED: "now",
  SUCCEEDED: "done",
  FAILED: "bad",
  CANCELLED: "bad",
};

const SAID: Record<Look, string> = { todo: "to do", now: "in progress", done: "done", bad: "stopped" };

class Step {
  readonly element: HTMLLIElement;
  private readonly mark = h("span", { class: "step-mark", "aria-hidden": "true" });
  private readonly text = h("span", { class: "step-text" });
  private readonly said = h("span", { class: "visually-hidden" });
  private readonly bar: HTMLProgressElement;

  constructor(
    private readonly number: number,
    title: string,
  ) {
    this.bar = h("progress", { max: 1, value: 0, "aria-label": title });
    this.element = h(
      "li",
      { class: "step" },
      this.mark,
      h("div", { class: "step-body" }, h("h3", {}, title, this.said), this.text, this.bar),
    );
  }

  set(look: Look, text: string, fraction: number | null): void {
    if (this.element.dataset.look !== look) {
      this.mark.replaceChildren(
        look === "done" ? icon("check") : look === "bad" ? icon("cross") : String(this.number),
      );
    }
    this.element.dataset.look = look;
    if (look === "now") this.element.setAttribute("aria-current", "step");
    else this.element.removeAttribute("aria-current");
    setText(this.said, ` (${SAID[look]})`);
    setText(this.text, text);
    show(this.bar, fraction !== null);
    if (fraction !== null) this.bar.value = fraction;
  }
}

export class Stepper {
  private readonly photos = new Step(1, "Photos");
  private readonly stages = [new Step(2, "Cameras"), new Step(3, "Training"), new Step(4, "Web scene")];

  constructor(list: HTMLElement) {
    list.append(this.photos.element, ...this.stages.map((step) => step.element));
  }

  update(info: JobInfo, tasks: TaskInfo[]): void {
    const uploading = info.status === "UPLOADING";
    this.photos.set(
      uploading ? "now" : "done",
      info.image_count ? `${plural(info.image_count, "photo")} ${uploading ? "so far" : "uploaded"}` : "",
      null,
    );
    this.stages.forEach((step, index) => {
      const task = tasks[index];
      if (!task) return;
      // A cancelled job cancels its later stages, too, which were never begun.
      const begun = task.state !== "CANCELLED" || Boolean(task.started_at);
      const look = begun ? (LOOKS[task.state] ?? "todo") : "todo";
      if (look === "now") step.set(look, doing(task, info), task.fraction ?? 0);
      else if (look === "done") step.set(look, outcome(task), null);
      else if (look === "bad") step.set(look, task.state === "FAILED" ? "failed here" : "stopped here", null);
      else
        step.set(
          look,
          task.state === "QUEUED" && info.status !== "PENDING" ? "waiting for a worker" : "",
          null,
        );
    });
  }
}
