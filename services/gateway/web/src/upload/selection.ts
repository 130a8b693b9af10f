// The photos and masks chosen so far, and what speaks against them.
import { bytes, count, plural } from "../lib/format";
import { folderOf } from "./drop";

export interface Limits {
  minImages: number;
  maxImages: number;
  maxImageBytes: number;
}

/** A photo, or the mask of one. */
export interface Picture {
  readonly id: number;
  readonly file: File;
  /** Unique name that a photo is uploaded under; that of a mask follows from its photo's. */
  readonly name: string;
  /** What it was chosen with: photos and masks of one folder belong together. */
  readonly place: string;
  /** Set when the browser, which reads this type, could not open it. */
  damaged: boolean;
}

export interface Skipped {
  name: string;
  why: string;
}

const MASK_SUFFIX = ".mask.png";
const EXTENSIONS = new Set(["jpg", "jpeg", "png", "webp", "tif", "tiff"]);
const HEIC = new Set(["heic", "heif"]);

function extensionOf(name: string): string {
  const dot = name.lastIndexOf(".");
  return dot > 0 ? name.slice(dot + 1).toLowerCase() : "";
}

/** Whether a file of this name is a photo's mask: `NAME.mask.png` or `NAME.jpg.mask.png` of `NAME.jpg`. */
export function isMask(name: string): boolean {
  return name.toLowerCase().endsWith(MASK_SUFFIX);
}

/** "30 photos, 12 masks". */
export function tally(files: readonly { readonly name: string }[]): string {
  const masks = files.filter(({ name }) => isMask(name)).length;
  const photos = files.length - masks;
  if (masks === 0) return plural(photos, "photo");
  return photos === 0 ? plural(masks, "mask") : `${plural(photos, "photo")}, ${plural(masks, "mask")}`;
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

/** What was chosen, in the order it was added. */
export class Selection {
  readonly pictures: Picture[] = [];
  private nextId = 1;
  private batch = 0;

  get photos(): Picture[] {
    return this.pictures.filter((picture) => !isMask(picture.name));
  }

  /** Adds what can be used; answers what was added, what was there already and what was refused. */
  add(files: Iterable<File>, limits: Limits): { added: Picture[]; duplicates: File[]; skipped: Skipped[] } {
    const added: Picture[] = [];
    const duplicates: File[] = [];
    const skipped: Skipped[] = [];
    this.batch += 1;
    for (const file of files) {
      const why = refusal(file, limits);
      if (why !== null) {
        skipped.push({ name: file.name, why });
      } else if (this.pictures.some((picture) => sameFile(picture.file, file))) {
        duplicates.push(file);
      } else {
        const picture: Picture = {
          id: this.nextId++,
          file,
          name: isMask(file.name) ? file.name : this.freeName(file.name),
          place: `${this.batch} ${folderOf(file)}`,
          damaged: false,
        };
        this.pictures.push(picture);
        added.push(picture);
      }
    }
    return { added, duplicates, skipped };
  }

  remove(id: number): void {
    const index = this.pictures.findIndex((picture) => picture.id === id);
    if (index >= 0) this.pictures.splice(index, 1);
  }

  clear(): void {
    this.pictures.length = 0;
  }

  /** Why the upload cannot start yet, or null when it can. */
  obstacle(limits: Limits): string | null {
    const total = this.photos.length;
    const damaged = this.pictures.filter((picture) => picture.damaged);
    if (damaged.length > 0) return `${tally(damaged)} cannot be opened. Remove what is marked.`;
    if (total < limits.minImages) {
      return `Add ${count(limits.minImages - total)} more: a scene needs at least ${plural(limits.minImages, "photo")}.`;
    }
    if (total > limits.maxImages) {
      return `Remove ${count(total - limits.maxImages)}: a scene takes at most ${plural(limits.maxImages, "photo")}.`;
    }
    return null;
  }

  /** What is uploaded, each mask under its photo's name, and the masks that are not, and why. */
  outcome(): { sent: { file: File; name: string }[]; lost: Map<Picture, string> } {
    const photos = this.photos;
    const named = photosByName(photos);
    const sent = photos.map(({ file, name }) => ({ file, name }));
    const lost = new Map<Picture, string>();
    const masked = new Set<Picture>();
    for (const mask of this.pictures) {
      if (!isMask(mask.name)) continue;
      const wanted = mask.name.slice(0, -MASK_SUFFIX.length);
      const fitting = named.get(wanted.toLowerCase()) ?? [];
      const near = fitting.filter((photo) => photo.place === mask.place);
      const [photo, other] = near.length > 0 ? near : fitting;
      if (!photo) lost.set(mask, `no photo is named ${wanted}`);
      else if (other) lost.set(mask, `several photos are named ${wanted}`);
      else if (masked.has(photo)) lost.set(mask, `${photo.name} has another mask`);
      else {
        masked.add(photo);
        sent.push({ file: mask.file, name: `${photo.name}${MASK_SUFFIX}` });
      }
    }
    return { sent, lost };
  }

  /** Photos of two folders may share a name; the second becomes `name-2.jpg`. */
  private freeName(original: string): string {
    // What the server does not take in a name.
    const wanted = original.replace(/[/\\:\p{C}]/gu, "_");
    const taken = new Set(this.pictures.map((picture) => picture.name.toLowerCase()));
    if (!taken.has(wanted.toLowerCase())) return wanted;
    const dot = wanted.lastIndexOf(".");
    for (let number = 2; ; number += 1) {
      const name = `${wanted.slice(0, dot)}-${number}${wanted.slice(dot)}`;
      if (!taken.has(name.toLowerCase())) return name;
    }
  }
}

/** Photos by the names that masks call them, with the extension and without it. */
function photosByName(photos: Picture[]): Map<string, Picture[]> {
  const named = new Map<string, Picture[]>();
  const note = (name: string, photo: Picture) => named.set(name, [...(named.get(name) ?? []), photo]);
  for (const photo of photos) {
    const name = photo.file.name.toLowerCase();
    note(name, photo);
    note(name.slice(0, name.lastIndexOf(".")), photo);
  }
  return named;
}

function sameFile(a: File, b: File): boolean {
  // Masks of two folders may well be alike in all else; the same folder may come as part of another.
  const [one, two] = [folderOf(a), folderOf(b)];
  const alike = a.name === b.name && a.size === b.size && a.lastModified === b.lastModified;
  return alike && (one.endsWith(two) || two.endsWith(one));
}
