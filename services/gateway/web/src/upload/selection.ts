// The photos chosen so far, and what speaks against them.
import { bytes, count, plural } from "../lib/format";

export interface Limits {
  minImages: number;
  maxImages: number;
  maxImageBytes: number;
}

export interface Photo {
  readonly id: number;
  readonly file: File;
  /** Unique name that the photo is uploaded under. */
  readonly name: string;
  /** Set when the browser, which reads this type, could not open it. */
  damaged: boolean;
}

export interface Skipped {
  name: string;
  why: string;
}

const EXTENSIONS = new Set(["jpg", "jpeg", "png", "webp", "tif", "tiff"]);
const HEIC = new Set(["heic", "heif"]);

function extensionOf(name: string): string {
  const dot = name.lastIndexOf(".");
  return dot > 0 ? name.slice(dot + 1).toLowerCase() : "";
}

/** Why a file cannot be used, or null. */
export function refusal(file: File, limits: Limits): string | null {
  const extension = extensionOf(file.name);
  if (HEIC.has(extension) || file.type.startsWith("image/hei")) {
    return "HEIC is not read here; export it as JPEG";
  }
  if (!EXTENSIONS.has(extension)) {
    return file.type.startsWith("image/") ? "this image format is not read here" : "not a photo";
  }
  if (file.size === 0) return "the file is empty";
  if (file.size > limits.maxImageBytes) {
    return `larger than ${bytes(limits.maxImageBytes)}`;
  }
  return null;
}

/** The chosen photos, in the order they were added. */
export class Selection {
  readonly photos: Photo[] = [];
  private nextId = 1;

  get bytes(): number {
    return this.photos.reduce((sum, photo) => sum + photo.file.size, 0);
  }

  /** Adds what can be used; answers what was added, what was there already and what was refused. */
  add(files: Iterable<File>, limits: Limits): { added: Photo[]; duplicates: number; skipped: Skipped[] } {
    const added: Photo[] = [];
    const skipped: Skipped[] = [];
    let duplicates = 0;
    for (const file of files) {
      const why = refusal(file, limits);
      if (why !== null) {
        skipped.push({ name: file.name, why });
      } else if (this.photos.some((photo) => sameFile(photo.file, file))) {
        duplicates += 1;
      } else {
        const photo: Photo = { id: this.nextId++, file, name: this.freeName(file.name), damaged: false };
        this.photos.push(photo);
        added.push(photo);
      }
    }
    return { added, duplicates, skipped };
  }

  remove(id: number): void {
    const index = this.photos.findIndex((photo) => photo.id === id);
    if (index >= 0) this.photos.splice(index, 1);
  }

  clear(): void {
    this.photos.length = 0;
  }

  /** Why the upload cannot start yet, or null when it can. */
  obstacle(limits: Limits): string | null {
    const total = this.photos.length;
    const damaged = this.photos.filter((photo) => photo.damaged).length;
    if (damaged > 0) return `${plural(damaged, "photo")} cannot be opened. Remove what is marked.`;
    if (total < limits.minImages) {
      return `Add ${count(limits.minImages - total)} more: a scene needs at least ${plural(limits.minImages, "photo")}.`;
    }
    if (total > limits.maxImages) {
      return `Remove ${count(total - limits.maxImages)}: a scene takes at most ${plural(limits.maxImages, "photo")}.`;
    }
    return null;
  }

  /** Photos of two folders may share a name; the second becomes `name-2.jpg`. */
  private freeName(original: string): string {
    // What the server does not take in a name.
    const wanted = original.replace(/[/\\:\p{C}]/gu, "_");
    const taken = new Set(this.photos.map((photo) => photo.name.toLowerCase()));
    if (!taken.has(wanted.toLowerCase())) return wanted;
    const dot = wanted.lastIndexOf(".");
    for (let number = 2; ; number += 1) {
      const name = `${wanted.slice(0, dot)}-${number}${wanted.slice(dot)}`;
      if (!taken.has(name.toLowerCase())) return name;
    }
  }
}

function sameFile(a: File, b: File): boolean {
  return a.name === b.name && a.size === b.size && a.lastModified === b.lastModified;
}
