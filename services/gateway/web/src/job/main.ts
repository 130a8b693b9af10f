// The job page: follows a job until it ends, and shows what came of it.
import "../styles/job.css";
import { showError } from "../lib/alert";
import { ApiError, call, infoOf } from "../lib/api";
import { copyText } from "../lib/copy";
import { byId, setText, show } from "../lib/dom";
import { fillDownloads } from "../lib/downloads";
import { hasEnded, type JobInfo, type Scene } from "../lib/types";
import { onThisHost } from "../lib/urls";
import { confirmed } from "./confirm";
import { Feed } from "./feed";
import { JobModel } from "./model";
import { render, showTimeLeft } from "./view";

const POLL_MS = 2000;
const jobId = location.pathname.split("/").filter(Boolean).at(-1) ?? "";
const path = `/recon/jobs/${encodeURIComponent(jobId)}`;
const model = new JobModel();
let feed: Feed | null = null;
/** Newest event seen, so that a feed that is opened anew goes on behind it. */
let lastSequence = 0;
/** The stream of an ended job has told its past; asking again would tell nothing new. */
let pastIsTold = false;
let refreshTimer = 0;
let refreshAt = Number.POSITIVE_INFINITY;
let pollTimer = 0;
let resultShown = "";
/** The alert is about the status, and goes when the status comes again; what a button was told stays. */
let statusFailed = false;

/** Asks for the status within `delay`; several wishes become one call. */
function refreshWithin(delay: number): void {
  const at = Date.now() + delay;
  if (at >= refreshAt) return;
  clearTimeout(refreshTimer);
  refreshAt = at;
  refreshTimer = window.setTimeout(() => void refresh(), delay);
}

async function refresh(): Promise<void> {
  refreshAt = Number.POSITIVE_INFINITY;
  try {
    takeStatus(await call<JobInfo>(`${path}/status`));
    if (statusFailed) showError(byId("page-error"), null);
    statusFailed = false;
  } catch (error) {
    const gone = error instanceof ApiError && error.status === 404;
    showError(byId("page-error"), infoOf(error));
    statusFailed = true;
    if (gone) jobIsGone();
    else poll(true);
  }
}

function takeStatus(info: JobInfo): void {
  model.takeStatus(info);
  render(model);
  if (hasEnded(info.status)) {
    poll(false);
    linkIs(true);
    if (info.status === "COMPLETED") void showResult(info);
    // A job that had ended before this page opened has a past worth showing all the same.
    if (!feed && !pastIsTold) follow();
  } else {
    resultShown = "";
    pastIsTold = false;
    if (!feed) follow();
  }
}

function follow(): void {
  feed = new Feed(jobId, lastSequence, {
    onEvent(event, sequence) {
      lastSequence = Math.max(lastSequence, sequence);
      const delay = model.takeEvent(event);
      scheduleRender();
      if (!model.info || !hasEnded(model.info.status) || event.type === "job") refreshWithin(delay);
    },
    onLink: linkIs,
    onEnd() {
      feed = null;
      pastIsTold = true;
      refreshWithin(0);
    },
  });
  feed.start();
}

let renderQueued = false;
/** A replayed past arrives as hundreds of events at once: draw once for all of them. */
function scheduleRender(): void {
  if (renderQueued) return;
  renderQueued = true;
  requestAnimationFrame(() => {
    renderQueued = false;
    render(model);
  });
}

function linkIs(live: boolean): void {
  const ended = model.info !== null && hasEnded(model.info.status);
  show(byId("link-state"), !live && !ended);
  setText(byId("link-state"), "The live connection broke; asking every two seconds instead.");
  poll(!live && !ended);
}

function poll(on: boolean): void {
  clearInterval(pollTimer);
  pollTimer = on ? window.setInterval(() => refreshWithin(0), POLL_MS) : 0;
}

function jobIsGone(): void {
  feed?.stop();
  poll(false);
  document.body.dataset.status = "GONE";
  setText(byId("job-title"), "No such job");
  for (const id of [
    "progress",
    "training",
    "log-card",
    "result",
    "failure",
    "earlier",
    "badge",
    "link-state",
  ])
    show(byId(id), false);
  for (const id of ["cancel", "retry", "delete"]) show(byId(id), false);
}

async function showResult(info: JobInfo): Promise<void> {
  const viewer = new URL(info.viewer_url || `/v/${info.pub_key}`, location.href);
  byId<HTMLAnchorElement>("open-viewer").href = onThisHost(viewer.href);
  byId<HTMLInputElement>("share-link").value = viewer.href;
  if (resultShown === info.pub_key) return;
  resultShown = info.pub_key;
  try {
    const scene = await call<Scene>(`/recon/pub/${encodeURIComponent(info.pub_key)}`);
    fillDownloads(byId("downloads"), scene.artifacts ?? []);
  } catch (error) {
    resultShown = "";
    showError(byId("page-error"), infoOf(error));
  }
}

/** Runs a button's call; the button cannot be pressed twice meanwhile. */
async function act(button: HTMLButtonElement, method: string, target: string): Promise<boolean> {
  button.disabled = true;
  try {
    await call(target, { method });
    showError(byId("page-error"), null);
    return true;
  } catch (error) {
    showError(byId("page-error"), infoOf(error));
    return false;
  } finally {
    button.disabled = false;
  }
}

function wireButtons(): void {
  const cancel = byId<HTMLButtonElement>("cancel");
  cancel.addEventListener("click", async () => {
    const text = "The stage that runs now stops within seconds. The photos stay, so you can try again later.";
    if (await confirmed("Cancel this job?", text, "Cancel the job")) {
      await act(cancel, "POST", `${path}/cancel`);
      refreshWithin(0);
    }
  });
  const retry = byId<HTMLButtonElement>("retry");
  retry.addEventListener("click", async () => {
    if (!(await act(retry, "POST", `${path}/retry`))) return;
    feed?.stop();
    feed = null; // The old stream has ended with the job.
    refreshWithin(0);
  });
  const remove = byId<HTMLButtonElement>("delete");
  remove.addEventListener("click", async () => {
    const text = "Photos, scene and share link are gone for good.";
    if ((await confirmed("Delete this job?", text, "Delete")) && (await act(remove, "DELETE", path))) {
      location.assign("/");
    }
  });
  const copy = byId<HTMLButtonElement>("copy");
  const link = byId<HTMLInputElement>("share-link");
  link.addEventListener("focus", () => link.select());
  copy.addEventListener("click", async () => {
    const done = await copyText(link.value);
    if (!done) link.select();
    setText(copy, done ? "Copied" : "Press Ctrl+C");
    setText(byId("live"), done ? "Link copied" : "");
    window.setTimeout(() => setText(copy, "Copy"), 2500);
  });
}

wireButtons();
setInterval(() => showTimeLeft(model), 1000);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && model.info && !hasEnded(model.info.status)) refreshWithin(0);
});
void refresh();
