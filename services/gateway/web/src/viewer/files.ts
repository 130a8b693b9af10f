// Which of a scene's files to show, and fetching it with its progress.
import { ApiError, errorFromBody, NO_CONNECTION } from "../lib/api";
import type { Artifact } from "../lib/types";
import { onThisHost } from "../lib/urls";

export type FileType = "spz" | "splat" | "ply";

export interface SceneFile {
  type: FileType;
  artifact: Artifact;
}

/** The first is the default: SPZ is a tenth of the PLY and keeps the view-dependent colour. */
const NAMES: readonly [FileType, string][] = [
  ["spz", "scene.spz"],
  ["splat", "scene.splat"],
  ["ply", "cloud.ply"],
];

/** The files that can be shown, the wished one first. */
export function showable(artifacts: Artifact[], wish: string | null): SceneFile[] {
  const files = NAMES.flatMap(([type, name]) => {
    const artifact = artifacts.find((candidate) => candidate.name === name);
    return artifact ? [{ type, artifact }] : [];
  });
  return files.sort((a, b) => Number(b.type === wish) - Number(a.type === wish));
}

/** Thrown when fewer bytes arrived than the file has. */
export class Truncated extends Error {
  constructor(
    readonly received: number,
    readonly expected: number,
  ) {
    super("truncated");
  }
}

/** Fetches a file; `onBytes` hears how many bytes have arrived. */
export async function fetchFile(
  artifact: Artifact,
  onBytes: (received: number, total: number) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  let response: Response;
  try {
    response = await fetch(onThisHost(artifact.url));
  } catch {
    throw new ApiError(0, NO_CONNECTION);
  }
  if (!response.ok)
    throw new ApiError(response.status, errorFromBody(response.status, await response.text()));
  const total = artifact.size_bytes;
  onBytes(0, total);
  let data = new Uint8Array(total);
  let received = 0;
  const reader = response.body?.getReader();
  if (!reader) return new Uint8Array(await response.arrayBuffer());
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (received + part.value.length > data.length) {
        const larger = new Uint8Array(2 * (received + part.value.length));
        larger.set(data.subarray(0, received));
        data = larger;
      }
      data.set(part.value, received);
      received += part.value.length;
      onBytes(received, total);
    }
  } catch {
    // The connection broke in the middle.
    throw new Truncated(received, total);
  }
  if (received < total) throw new Truncated(received, total);
  return data.subarray(0, received);
}

/** Whether a scene says that it was trained with opacities that make up for the blur. */
export async function isAntialiased(data: Uint8Array<ArrayBuffer>, type: FileType): Promise<boolean> {
  if (type === "ply") {
    const header = new TextDecoder("latin1").decode(data.subarray(0, 4096)).split("end_header")[0];
    return /^comment antialiased\r?$/m.test(header ?? "");
  }
  if (type !== "spz") return false; // the format has no place for it
  // The flags stand in byte 14 of what is packed.
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip")).getReader();
  try {
    const { value } = await reader.read();
    await reader.cancel();
    return ((value?.[14] ?? 0) & 1) === 1;
  } catch {
    return false; // no gzip: whoever decodes it says so
  }
}
