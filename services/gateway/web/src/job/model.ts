// What the page knows of a job: the newest status, carried on by the events that follow it.
import type { JobInfo, Stage, TaskInfo, TrainingFigures } from "../lib/types";
import type { FeedEvent } from "./feed";

const STAGES: Stage[] = ["sfm", "train", "postproc"];
const LOG_LINES = 400;
const HISTORY = 2000;

export interface LossPoint {
  iteration: number;
  loss: number;
}

export class JobModel {
  info: JobInfo | null = null;
  /** When `info` was told, for counting the time left down. */
  toldAt = 0;
  log: string[] = [];
  history: LossPoint[] = [];
  private logIsFromEvents = false;
  private historyIsFromEvents = false;

  /** Takes a whole status. */
  takeStatus(info: JobInfo): void {
    this.info = info;
    this.toldAt = Date.now();
    if (info.training && !this.historyIsFromEvents) this.addTraining(info.training);
    if (!this.logIsFromEvents && info.log_tail) this.log = [...info.log_tail];
  }

  /** Takes an event; answers how soon a whole status should be asked for, in milliseconds. */
  takeEvent(event: FeedEvent): number {
    switch (event.type) {
      case "progress": {
        const { stage, step, fraction, training, gpu_memory: gpu, log_lines: lines } = event.data;
        const task = this.task(stage);
        if (task && task.state !== "SUCCEEDED") {
          if (typeof fraction === "number") task.fraction = Math.max(task.fraction ?? 0, fraction);
          if (step) task.step = step;
        }
        if (training) this.addTrainingEvent(training);
        if (this.info?.status === "PROCESSING") {
          if (training) this.info.training = training;
          if (gpu) this.info.gpu_memory = gpu;
        }
        if (lines && lines.length > 0) this.addLog(lines);
        return 3000;
      }
      case "queue":
        if (this.info) this.info.queue_position = event.data.position;
        return 3000;
      case "task": {
        // A stage that begins again counts from nothing.
        const task = this.task(event.data.stage);
        if (task && event.data.new_state === "LEASED" && event.data.stage === "train") this.history = [];
        return 150;
      }
      case "job":
        return 150;
    }
  }

  /** The tasks in order, filled up where the server names fewer. */
  tasks(): TaskInfo[] {
    return STAGES.map((stage) => this.task(stage) ?? { stage, state: "BLOCKED" });
  }

  private task(stage: Stage): TaskInfo | undefined {
    return this.info?.tasks?.find((task) => task.stage === stage);
  }

  /** The stream tells everything from the start, so its points replace those of the polled status. */
  private addTrainingEvent(figures: TrainingFigures): void {
    if (!this.historyIsFromEvents) this.history = [];
    this.historyIsFromEvents = true;
    this.addTraining(figures);
  }

  private addTraining(figures: TrainingFigures): void {
    const last = this.history.at(-1);
    if (last && figures.iteration <= last.iteration) return;
    this.history.push({ iteration: figures.iteration, loss: figures.loss });
    if (this.history.length > HISTORY) this.history = this.history.filter((_, index) => index % 2 === 0);
  }

  /** The stream tells everything from the start, so its lines replace the status's tail. */
  private addLog(lines: string[]): void {
    if (!this.logIsFromEvents) {
      this.log = [];
      this.logIsFromEvents = true;
    }
    this.log.push(...lines);
    if (this.log.length > LOG_LINES) this.log.splice(0, this.log.length - LOG_LINES);
  }
}
