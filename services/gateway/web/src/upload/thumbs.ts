// Thumbnails of the chosen photos: small bitmaps, made two at a time, so that 200 photos
// of 12 megapixels do not fill a phone's memory.
import { h } from "../lib/dom";
import { bytes } from "../lib/format";
import { icon } from "../lib/icons";
import type { Photo } from "./selection";

const SIDE = 200; // Pixels of a thumbnail's longer side, enough for 100 CSS pixels on a phone.
const AT_ONCE = 2;
/** Types that every browser opens; a failure there means a damaged file. */
const OPENABLE = /\.(jpe?g|png|webp)$/i;

export class Thumbs {
  private readonly items = new Map<number, HTMLLIElement>();
  private readonly waiting: Photo[] = [];
  private running = 0;

  constructor(
    private readonly list: HTMLElement,
    private readonly onRemove: (photo: Photo) => void,
    private readonly onDamaged: (photo: Photo) => void,
  ) {}

  add(photo: Photo): void {
    const remove = h(
      "button",
      { type: "button", class: "thumb-remove", "aria-label": `Remove ${photo.name}`, title: "Remove" },
      icon("cross"),
    );
    remove.addEventListener("click", () => this.removeByHand(photo));
    const item = h(
      "li",
      { class: "thumb", title: `${photo.name}, ${bytes(photo.file.size)}` },
      h("span", { class: "thumb-name" }, photo.name),
      remove,
    );
    this.items.set(photo.id, item);
    this.list.append(item);
    this.waiting.push(photo);
    void this.work();
  }

  clear(): void {
    this.items.clear();
    this.waiting.length = 0;
    this.list.replaceChildren();
  }

  private removeByHand(photo: Photo): void {
    const item = this.items.get(photo.id);
    const next = item?.nextElementSibling ?? item?.previousElementSibling;
    this.items.delete(photo.id);
    item?.remove();
    this.onRemove(photo);
    next?.querySelector<HTMLElement>(".thumb-remove")?.focus();
  }

  private async work(): Promise<void> {
    if (this.running >= AT_ONCE) return;
    this.running += 1;
    for (let photo = this.waiting.shift(); photo; photo = this.waiting.shift()) {
      const item = this.items.get(photo.id);
      if (item) await this.draw(photo, item);
    }
    this.running -= 1;
  }

  private async draw(photo: Photo, item: HTMLLIElement): Promise<void> {
    try {
      const bitmap = await createImageBitmap(photo.file, { resizeWidth: SIDE, resizeQuality: "medium" });
      const canvas = h("canvas", { width: bitmap.width, height: bitmap.height, "aria-hidden": "true" });
      canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
      bitmap.close();
      item.prepend(canvas);
      item.classList.add("has-picture");
    } catch {
      if (!OPENABLE.test(photo.name)) return;
      photo.damaged = true;
      item.classList.add("is-damaged");
      item.append(h("span", { class: "thumb-problem" }, "cannot be opened"));
      this.onDamaged(photo);
    }
  }
}
