// The queue and the recent jobs below the upload form.
import { call } from "../lib/api";
import { byId, h, setText, show } from "../lib/dom";
import { ago, plural, shortCount } from "../lib/format";
import { statusText } from "../lib/status";
import type { JobInfo, JobsAnswer, QueueAnswer } from "../lib/types";

const EVERY_MS = 5000;
const SHOWN = 12;

function queueText(queue: QueueAnswer): string {
  if (queue.running_count + queue.pending_count === 0) return "Free: yours would start at once";
  const parts = [`${queue.running_count} running`];
  if (queue.pending_count > 0) parts.push(`${queue.pending_count} waiting`);
  return parts.join(", ");
}

function jobItem(job: JobInfo): HTMLLIElement {
  const facts = [
    job.image_count ? plural(job.image_count, "photo") : "",
    job.status === "COMPLETED" && job.gaussian_count ? `${shortCount(job.gaussian_count)} Gaussians` : "",
    job.status === "PENDING" && job.queue_position ? `number ${job.queue_position} in the queue` : "",
    job.created_at ? ago(job.created_at) : "",
  ].filter((fact) => fact !== "");
  const running = job.status === "PROCESSING" && typeof job.fraction === "number";
  const text = running ? `${Math.floor((job.fraction ?? 0) * 100)} %` : statusText(job.status);
  return h(
    "li",
    { class: "job-item", "data-status": job.status },
    h(
      "a",
      { href: `/jobs/${encodeURIComponent(job.job_id)}`, class: "job-link" },
      h("strong", {}, job.title || `Scene ${job.job_id}`),
      h("span", { class: "muted" }, facts.join(" · ")),
    ),
    running && h("progress", { max: 1, value: job.fraction ?? 0, "aria-label": "Progress" }),
    h("span", { class: "badge", "data-status": job.status }, text),
    job.status === "COMPLETED" &&
      h("a", { class: "button small", href: `/v/${encodeURIComponent(job.pub_key)}` }, "View"),
  );
}

async function refresh(): Promise<void> {
  const [queue, jobs] = await Promise.allSettled([
    call<QueueAnswer>("/recon/queue"),
    call<JobsAnswer>("/recon/jobs"),
  ]);
  if (queue.status === "fulfilled") {
    const text = queueText(queue.value);
    setText(byId("queue-chip"), text);
    setText(byId("queue-line"), text);
    byId("queue-chip").dataset.busy = String(queue.value.running_count > 0);
  }
  show(byId("queue-chip"), queue.status === "fulfilled");
  if (jobs.status === "fulfilled") {
    const list = byId("job-list");
    // Replacing a link that has the focus would lose it.
    if (!list.contains(document.activeElement)) {
      list.replaceChildren(...(jobs.value.jobs ?? []).slice(0, SHOWN).map(jobItem));
    }
    show(byId("jobs"), list.childElementCount > 0);
  }
}

/** Shows queue and jobs and keeps them fresh while the page is looked at and `idle()` holds. */
export function startBoard(idle: () => boolean): void {
  void refresh();
  setInterval(() => {
    if (document.visibilityState === "visible" && idle()) void refresh();
  }, EVERY_MS);
}
