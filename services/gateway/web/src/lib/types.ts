// The gateway's JSON, as the pages read it. Fields that do not apply to a state are absent or null.

export type JobStatus = "UPLOADING" | "PENDING" | "PROCESSING" | "COMPLETED" | "FAILED" | "CANCELLED";
export type TaskState = "BLOCKED" | "QUEUED" | "LEASED" | "SUCCEEDED" | "FAILED" | "CANCELLED";
export type Stage = "sfm" | "train" | "postproc";
type Maybe<T> = T | null | undefined;

export interface ErrorInfo {
  reason: string;
  message: string;
  remedy?: string;
  retryable?: boolean;
}

export interface TrainingFigures {
  iteration: number;
  iterations: number;
  loss: number;
  iterations_per_second: number;
  gaussian_count: number;
  test_psnr?: Maybe<number>;
}

export interface GpuMemory {
  index: number;
  used_mib: number;
  total_mib: number;
}

export interface TaskInfo {
  stage: Stage;
  state: TaskState;
  fraction?: Maybe<number>;
  step?: Maybe<string>;
  attempt?: Maybe<number>;
  started_at?: Maybe<string>;
  finished_at?: Maybe<string>;
  metrics?: Maybe<Record<string, number>>;
}

export interface JobInfo {
  job_id: string;
  pub_key: string;
  title?: Maybe<string>;
  status: JobStatus;
  created_at?: Maybe<string>;
  image_count?: Maybe<number>;
  fraction?: Maybe<number>;
  eta_seconds?: Maybe<number>;
  stage?: Maybe<Stage>;
  step?: Maybe<string>;
  tasks?: Maybe<TaskInfo[]>;
  log_tail?: Maybe<string[]>;
  last_sequence?: Maybe<number>;
  queue_position?: Maybe<number>;
  gaussian_count?: Maybe<number>;
  viewer_url?: Maybe<string>;
  /** There is a scene to look at: that of an earlier run, until there is a new one. */
  has_scene?: Maybe<boolean>;
  processing_time_seconds?: Maybe<number>;
  error_message?: Maybe<string>;
  error?: Maybe<ErrorInfo>;
  training?: Maybe<TrainingFigures>;
  gpu_memory?: Maybe<GpuMemory>;
}

/** Data of the event `job`. */
export interface JobEvent {
  old_state?: JobStatus;
  new_state: JobStatus;
  error?: Maybe<ErrorInfo>;
}

/** Data of the event `task`. */
export interface TaskEvent {
  stage: Stage;
  old_state?: TaskState;
  new_state: TaskState;
  attempt?: number;
  error?: Maybe<ErrorInfo>;
}

/** Data of the event `progress`. */
export interface ProgressEventData {
  stage: Stage;
  step?: string;
  fraction?: number;
  eta_seconds?: Maybe<number>;
  log_lines?: Maybe<string[]>;
  training?: Maybe<TrainingFigures>;
  gpu_memory?: Maybe<GpuMemory>;
}

export interface Artifact {
  name: string;
  size_bytes: number;
  url: string;
}

/** What the share key alone shows. */
export interface Scene {
  status: JobStatus;
  title?: Maybe<string>;
  gaussian_count?: Maybe<number>;
  artifacts?: Maybe<Artifact[]>;
  fraction?: Maybe<number>;
  eta_seconds?: Maybe<number>;
  stage?: Maybe<Stage>;
  queue_position?: Maybe<number>;
}

export interface OptionInfo {
  stage: Stage;
  name: string;
  type: "bool" | "int" | "float" | "enum";
  help: string;
  default_value?: Maybe<string | number | boolean>;
  minimum?: Maybe<number>;
  maximum?: Maybe<number>;
  choices?: Maybe<string[]>;
}

/** A preset on a device, for about 40 photos. */
export interface PresetEstimate {
  preset: string;
  seconds: number;
  memory_bytes: number;
}

export interface TrainingDevice {
  /** "cpu", or the GPU's name. */
  device: string;
  name: string;
  presets: PresetEstimate[];
}

export interface OptionsAnswer {
  options: OptionInfo[];
  devices?: Maybe<TrainingDevice[]>;
  limits?: Maybe<{
    min_images?: Maybe<number>;
    max_images?: Maybe<number>;
    max_image_bytes?: Maybe<number>;
  }>;
}

export interface QueueAnswer {
  max_concurrent: number;
  running_count: number;
  pending_count: number;
}

export interface JobsAnswer {
  jobs: JobInfo[];
}

export interface CreatedJob {
  job_id: string;
  pub_key: string;
}

/** Whether nothing more will happen to a job by itself. */
export function hasEnded(status: JobStatus): boolean {
  return status === "COMPLETED" || status === "FAILED" || status === "CANCELLED";
}
