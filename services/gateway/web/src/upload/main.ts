// The upload page: choose, check, send.
import "../styles/upload.css";
import { showError } from "../lib/alert";
import { call, infoOf } from "../lib/api";
import { byId, h, setText, show } from "../lib/dom";
import { bytes, count, duration, plural } from "../lib/format";
import type { OptionsAnswer } from "../lib/types";
import { startArt } from "./art";
import { startBoard } from "./board";
import { carriesFiles, filesOf } from "./drop";
import { chosenOptions, fillOptions } from "./options";
import { chosenPreset, fillPresets, showEstimates } from "./presets";
import { type Limits, type Picture, Selection, type Skipped, tally } from "./selection";
import { Thumbs } from "./thumbs";
import { Aborted, keepAwake, type Sent, upload } from "./transfer";

// The server's defaults, until it tells its own.
const limits: Limits = { minImages: 3, maxImages: 200, maxImageBytes: 100 * 1024 * 1024 };
const ESTIMATE_TRIES = 12;
const ESTIMATE_PAUSE = 5000; // milliseconds
const selection = new Selection();
const form = byId<HTMLFormElement>("upload-form");
const submit = byId<HTMLButtonElement>("submit");
const optionBox = byId("options");
const art = startArt(byId<HTMLCanvasElement>("art"));
const thumbs = new Thumbs(
  byId("thumbs"),
  (picture) => {
    selection.remove(picture.id);
    refresh();
  },
  refresh,
);
let running: { abort: () => void } | null = null;

/** Shows the selection as it is now. */
function refresh(): void {
  const { pictures, photos } = selection;
  const total = pictures.length;
  const obstacle = selection.obstacle(limits);
  const { sent, lost } = selection.outcome();
  document.body.classList.toggle("has-photos", total > 0);
  show(byId("tray"), total > 0);
  show(byId("tips"), total === 0);
  setText(byId("tray-sum"), `${tally(pictures)}, ${bytes(bytesOf(sent))}`);
  setText(byId("check"), running || total === 0 ? "" : (obstacle ?? lossText(lost)));
  submit.disabled = obstacle !== null;
  setText(submit, photos.length > 0 ? `Make a scene from ${plural(photos.length, "photo")}` : "Start");
  thumbs.markLost(lost);
  show(submit, running === null);
  show(byId("abort"), running !== null);
  byId("tray").classList.toggle("is-sending", running !== null);
  byId("tray").toggleAttribute("data-busy", running !== null);
}

function bytesOf(files: { file: File }[]): number {
  return files.reduce((sum, { file }) => sum + file.size, 0);
}

/** Says of masks that no photo can be found for that they are left out. */
function lossText(lost: Map<Picture, string>): string {
  const [first] = lost;
  if (!first) return "";
  const [{ name }, why] = first;
  if (lost.size === 1) return `${name} is left out: ${why}.`;
  return `${plural(lost.size, "mask")} are left out, such as ${name}: ${why}.`;
}

function notice(duplicates: File[], skipped: Skipped[]): void {
  const lines: string[] = [];
  if (duplicates.length > 0) lines.push(`${tally(duplicates)} had been added already.`);
  for (const { name, why } of skipped.slice(0, 3)) lines.push(`${name} was left out: ${why}.`);
  if (skipped.length > 3) lines.push(`${count(skipped.length - 3)} more files were left out.`);
  byId("notices").replaceChildren(...lines.map((line) => h("li", {}, line)));
}

function addFiles(files: Iterable<File>): void {
  if (running) return;
  const first = selection.pictures.length === 0;
  const { added, duplicates, skipped } = selection.add(files, limits);
  for (const picture of added) thumbs.add(picture);
  showError(byId("upload-error"), null);
  refresh();
  notice(duplicates, skipped);
  if (selection.pictures.length === 0 && skipped.length > 0) {
    show(byId("tray"), true);
    setText(byId("tray-sum"), "None of these can be used");
  }
  if (first && added.length > 0) byId("tray-title").focus({ preventScroll: false });
}

function onSent(sent: Sent): void {
  const fraction = sent.total > 0 ? sent.bytes / sent.total : 0;
  const percent = `${Math.floor(fraction * 100)} %`;
  byId<HTMLProgressElement>("transfer-bar").value = fraction;
  setText(byId("transfer-percent"), percent);
  if (fraction >= 1) {
    setText(byId("transfer-detail"), "All sent. The server checks the photos …");
    setText(byId("transfer-live"), "All sent. The server checks the photos.");
    return;
  }
  const parts = [`${bytes(sent.bytes)} of ${bytes(sent.total)}`];
  if (sent.bytesPerSecond !== null && sent.bytesPerSecond > 0) {
    parts.push(`${bytes(sent.bytesPerSecond)}/s`);
    parts.push(`${duration((sent.total - sent.bytes) / sent.bytesPerSecond)} left`);
  }
  setText(byId("transfer-detail"), parts.join(" · "));
  // Screen readers hear every tenth percent only.
  setText(byId("transfer-live"), `${Math.floor(fraction * 10) * 10} % sent`);
}

/** Fields come before the files: the server reads them in order, and needs the options first. */
function formData(): FormData {
  const data = new FormData();
  data.append("original_resolution", String(byId<HTMLInputElement>("original_resolution").checked));
  const title = byId<HTMLInputElement>("title").value.trim();
  if (title) data.append("title", title);
  for (const [name, value] of [...chosenPreset(), ...chosenOptions(optionBox)]) data.append(name, value);
  for (const { file, name } of selection.outcome().sent) data.append("files", file, name);
  return data;
}

function optionsAreValid(): boolean {
  const invalid = optionBox.querySelector<HTMLInputElement>("input:invalid");
  if (!invalid) return true;
  byId<HTMLDetailsElement>("advanced").open = true;
  invalid.reportValidity();
  return false;
}

async function send(): Promise<void> {
  if (running || selection.obstacle(limits) !== null || !optionsAreValid()) return;
  showError(byId("upload-error"), null);
  const release = await keepAwake();
  const transfer = upload(formData(), onSent);
  running = transfer;
  onSent({ bytes: 0, total: bytesOf(selection.outcome().sent), bytesPerSecond: null });
  show(byId("transfer"), true);
  refresh();
  try {
    const job = await transfer.done;
    running = null;
    location.assign(`/jobs/${encodeURIComponent(job.job_id)}`);
  } catch (error) {
    running = null;
    show(byId("transfer"), false);
    refresh();
    if (error instanceof Aborted) {
      setText(byId("check"), "Stopped. Nothing was kept on the server.");
    } else {
      showError(byId("upload-error"), infoOf(error));
      byId("upload-error").focus();
    }
  } finally {
    release();
  }
}

function wirePickers(): void {
  const files = byId<HTMLInputElement>("files");
  const folder = byId<HTMLInputElement>("folder");
  for (const input of [files, folder]) {
    input.addEventListener("change", () => {
      addFiles([...(input.files ?? [])].filter((file) => !file.name.startsWith(".")));
      input.value = ""; // So that the same files can be chosen again.
    });
  }
  byId("pick").addEventListener("click", () => files.click());
  byId("add-more").addEventListener("click", () => files.click());
  byId("pick-folder").addEventListener("click", () => folder.click());
  // Phones know the attribute but have no folders to choose.
  show(byId("pick-folder"), "webkitdirectory" in folder && matchMedia("(hover: hover)").matches);
  byId("clear").addEventListener("click", () => {
    selection.clear();
    thumbs.clear();
    notice([], []);
    refresh();
    byId("pick").focus();
  });
}

function wireDrop(): void {
  let depth = 0; // dragenter and dragleave also fire for every child.
  const over = (on: boolean) => {
    show(byId("veil"), on);
    art.scatter(on);
  };
  document.addEventListener("dragenter", (event) => {
    if (!carriesFiles(event) || running) return;
    depth += 1;
    over(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!carriesFiles(event)) return;
    depth = Math.max(0, depth - 1);
    if (depth === 0) over(false);
  });
  document.addEventListener("dragover", (event) => {
    if (carriesFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event) || !event.dataTransfer) return;
    event.preventDefault();
    depth = 0;
    over(false);
    void filesOf(event.dataTransfer).then(addFiles);
  });
  document.addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (pasted.length > 0) addFiles(pasted);
  });
}

/** A trainer that has just started tells its speed a little later. */
async function keepEstimates(first: OptionsAnswer): Promise<void> {
  let devices = first.devices ?? [];
  for (let asked = 0; devices.length === 0 && asked < ESTIMATE_TRIES; asked += 1) {
    await new Promise((resolve) => setTimeout(resolve, ESTIMATE_PAUSE));
    const answer = await call<OptionsAnswer>("/recon/options").catch(() => null);
    devices = answer?.devices ?? [];
  }
  showEstimates(devices);
}

async function loadOptions(): Promise<void> {
  try {
    const answer = await call<OptionsAnswer>("/recon/options");
    limits.minImages = answer.limits?.min_images ?? limits.minImages;
    limits.maxImages = answer.limits?.max_images ?? limits.maxImages;
    limits.maxImageBytes = answer.limits?.max_image_bytes ?? limits.maxImageBytes;
    for (const span of document.querySelectorAll<HTMLElement>("[data-limit]")) {
      setText(span, count(span.dataset.limit === "min" ? limits.minImages : limits.maxImages));
    }
    const options = answer.options ?? [];
    show(byId("advanced"), fillOptions(optionBox, options));
    if (fillPresets(options.find((option) => option.name === "preset"))) void keepEstimates(answer);
    refresh();
  } catch {
    // The page works without: the server has defaults for everything.
  }
}

wirePickers();
wireDrop();
form.addEventListener("submit", (event) => {
  event.preventDefault();
  void send();
});
byId("abort").addEventListener("click", () => running?.abort());
window.addEventListener("beforeunload", (event) => {
  if (running) event.preventDefault();
});
void loadOptions();
startBoard(() => running === null);
refresh();
