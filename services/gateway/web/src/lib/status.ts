import type { JobStatus, Stage } from "./types";

const STATUS: Record<JobStatus, string> = {
  UPLOADING: "Uploading",
  PENDING: "Waiting",
  PROCESSING: "Working",
  COMPLETED: "Ready",
  FAILED: "Failed",
  CANCELLED: "Cancelled",
};

/** A job's state in a word. */
export function statusText(status: JobStatus): string {
  return STATUS[status] ?? status;
}

const STAGE: Record<Stage, string> = {
  sfm: "Finding the cameras",
  train: "Training",
  postproc: "Making the web scene",
};

/** What a stage does. */
export function stageText(stage: Stage): string {
  return STAGE[stage] ?? stage;
}
