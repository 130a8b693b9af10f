// Puts a job on the page.
import { byId, h, setText, show } from "../lib/dom";
import { ago, count, duration, plural, shortCount, timeLeft } from "../lib/format";
import { stageText, statusText } from "../lib/status";
import { hasEnded, type JobInfo } from "../lib/types";
import { Chart } from "./chart";
import type { JobModel } from "./model";
import { Preview } from "./preview";
import { Stepper, stepText } from "./stepper";

const chart = new Chart(byId<HTMLCanvasElement>("chart"));
const preview = new Preview();
const stepper = new Stepper(byId("stepper"));
let spoken = "";

/** Name and value pairs; values that are empty are left out. */
function fillFigures(list: HTMLElement, pairs: [string, string | null][]): void {
  const wanted = pairs.filter((pair): pair is [string, string] => pair[1] !== null && pair[1] !== "");
  list.replaceChildren(...wanted.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function nowText(info: JobInfo): string {
  switch (info.status) {
    case "UPLOADING":
      return "Photos are arriving";
    case "PENDING":
      return info.queue_position ? `Number ${info.queue_position} in the queue` : "In the queue";
    case "PROCESSING": {
      const stage = info.stage ? stageText(info.stage) : "Working";
      return info.step && info.step !== "train" ? `${stage}: ${stepText(info.step)}` : stage;
    }
    case "COMPLETED":
      return "Done";
    case "FAILED":
      return "Stopped by an error";
    case "CANCELLED":
      return "Cancelled";
  }
}

function head(info: JobInfo): void {
  const badge = byId("badge");
  setText(badge, statusText(info.status));
  badge.dataset.status = info.status;
  setText(byId("job-title"), info.title || `Scene ${info.job_id}`);
  const facts = [
    info.image_count ? plural(info.image_count, "photo") : "",
    info.created_at ? `started ${ago(info.created_at)}` : "",
    `job ${info.job_id}`,
  ];
  setText(
    byId("job-facts"),
    facts
      .filter((fact) => fact !== "")
      .map((fact) => fact.replaceAll(" ", "\u00a0"))
      .join(" · "),
  );
  const logFile = byId<HTMLAnchorElement>("log-file");
  logFile.href = `/recon/jobs/${encodeURIComponent(info.job_id)}/artifacts/logs/process.log`;
  show(logFile, info.status !== "UPLOADING" && info.status !== "PENDING");
  show(byId("cancel"), !hasEnded(info.status));
  show(byId("retry"), info.status === "FAILED" || info.status === "CANCELLED");
  show(byId("delete"), hasEnded(info.status));
}

function failure(info: JobInfo): void {
  const failed = info.status === "FAILED";
  show(byId("failure"), failed);
  if (!failed) return;
  setText(byId("failure-message"), info.error?.message || info.error_message || "The job failed.");
  setText(byId("failure-remedy"), info.error?.remedy ?? "");
  setText(byId("failure-reason"), info.error?.reason ?? "");
}

/** A job that is made anew keeps the scene it had. */
function earlier(info: JobInfo): void {
  const there = Boolean(info.has_scene) && info.status !== "COMPLETED";
  show(byId("earlier"), there);
  if (!there) return;
  byId<HTMLAnchorElement>("earlier-link").href = `/v/${encodeURIComponent(info.pub_key)}`;
  setText(
    byId("earlier-text"),
    hasEnded(info.status)
      ? "The scene made before is still there."
      : "The scene made before stays until the new one is done.",
  );
}

/** Time left, counted down since it was told. */
export function showTimeLeft(model: JobModel): void {
  const info = model.info;
  if (info?.status !== "PROCESSING" || typeof info.eta_seconds !== "number") {
    setText(byId("eta"), info?.status === "PENDING" ? "It starts by itself. You can close this page." : "");
    return;
  }
  const passed = (Date.now() - model.toldAt) / 1000;
  setText(byId("eta"), timeLeft(Math.max(0, info.eta_seconds - passed)));
}

function overall(info: JobInfo): void {
  const fraction = info.status === "COMPLETED" ? 1 : (info.fraction ?? 0);
  const percent = Math.floor(fraction * 100);
  setText(byId("percent"), String(percent));
  byId<HTMLProgressElement>("overall-bar").value = fraction;
  const now = nowText(info);
  setText(byId("now"), now);
  show(byId("overall"), !hasEnded(info.status));
  // While it waits its place says more than a zero.
  for (const id of ["overall-number", "overall-bar"]) show(byId(id), info.status !== "PENDING");
  document.title =
    info.status === "PROCESSING"
      ? `${percent} % · ${info.title || "Splatmill"}`
      : `${statusText(info.status)} · ${info.title || "Splatmill"}`;
  // Screen readers hear a new step, and every tenth percent.
  const words = `${now}${info.status === "PROCESSING" ? `, ${Math.floor(percent / 10) * 10} percent` : ""}`;
  if (words !== spoken) {
    spoken = words;
    setText(byId("live"), words);
  }
}

function training(model: JobModel): void {
  const info = model.info;
  if (info) preview.update(info);
  const figures = info?.training;
  show(byId("training"), Boolean(figures) || model.history.length > 1 || Boolean(info?.gpu_memory));
  if (figures) {
    fillFigures(byId("training-figures"), [
      ["Step", `${count(figures.iteration)} / ${count(figures.iterations)}`],
      ["Loss", figures.loss.toFixed(4)],
      ["Steps a second", figures.iterations_per_second.toFixed(figures.iterations_per_second < 10 ? 1 : 0)],
      ["Gaussians", shortCount(figures.gaussian_count)],
      ["Test PSNR", figures.test_psnr ? `${figures.test_psnr.toFixed(2)} dB` : null],
    ]);
  }
  const total = figures?.iterations ?? model.history.at(-1)?.iteration ?? 0;
  const range = chart.update(model.history, total);
  if (range) {
    const text = `${range[0].toFixed(3)} → ${range[1].toFixed(3)}`;
    setText(byId("chart-range"), text);
    byId("chart").setAttribute(
      "aria-label",
      `Loss over the training steps, ${range[0].toFixed(3)} to ${range[1].toFixed(3)}`,
    );
  }
  const gpu = info?.gpu_memory;
  show(byId("gpu"), Boolean(gpu));
  if (gpu) {
    setText(byId("gpu-name"), `GPU ${gpu.index} memory`);
    setText(byId("gpu-text"), `${count(gpu.used_mib)} of ${count(gpu.total_mib)} MB`);
    byId<HTMLMeterElement>("gpu-meter").value = gpu.total_mib > 0 ? gpu.used_mib / gpu.total_mib : 0;
  }
}

function log(lines: string[]): void {
  const box = byId("log");
  show(byId("log-card"), lines.length > 0);
  const text = lines.join("\n");
  if (box.textContent === text) return;
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  box.textContent = text;
  if (atEnd) box.scrollTop = box.scrollHeight;
}

/** Figures of a finished job. */
function resultFigures(model: JobModel, info: JobInfo): void {
  const tasks = model.tasks();
  const metric = (stage: number, name: string) => tasks[stage]?.metrics?.[name] ?? null;
  const psnr = metric(1, "test_psnr");
  const placed = metric(0, "registered_images");
  fillFigures(byId("result-figures"), [
    ["Gaussians", info.gaussian_count ? count(info.gaussian_count) : null],
    ["Time", info.processing_time_seconds ? duration(info.processing_time_seconds) : null],
    ["Photos placed", placed === null ? null : `${placed} of ${info.image_count ?? placed}`],
    ["Test PSNR", psnr ? `${psnr.toFixed(1)} dB` : null],
  ]);
}

/** Shows everything as it is now. */
export function render(model: JobModel): void {
  const info = model.info;
  if (!info) return;
  document.body.dataset.status = info.status;
  head(info);
  failure(info);
  earlier(info);
  overall(info);
  showTimeLeft(model);
  stepper.update(info, model.tasks());
  training(model);
  log(model.log);
  show(byId("result"), info.status === "COMPLETED");
  if (info.status === "COMPLETED") resultFigures(model, info);
}
