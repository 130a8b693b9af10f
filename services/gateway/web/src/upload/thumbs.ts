// Thumbnails of the chosen photos and masks: small bitmaps, made two at a time, so that 200 photos
// of 12 megapixels do not fill a phone's memory.
import { h, setText } from "../lib/dom";
import { bytes } from "../lib/format";
import { icon } from "../lib/icons";
import { isMask, type Picture } from "./selection";

const SIDE = 200; // Pixels of a thumbnail's longer side, enough for 100 CSS pixels on a phone.
const AT_ONCE = 2;
/** Types that every browser opens; a failure there means a damaged file. */
const OPENABLE = /\.(jpe?g|png|webp)$/i;

export class Thumbs {
  private readonly items = new Map<number, HTMLLIElement>();
  private readonly waiting: Picture[] = [];
  private running = 0;

  constructor(
    private readonly list: HTMLElement,
    private readonly onRemove: (picture: Picture) => void,
    private readonly onDamaged: (picture: Picture) => void,
  ) {}

  add(picture: Picture): void {
    const remove = h(
      "button",
      { type: "button", class: "thumb-remove", "aria-label": `Remove ${picture.name}`, title: "Remove" },
      icon("cross"),
    );
    remove.addEventListener("click", () => this.removeByHand(picture));
    const item = h(
      "li",
      { class: "thumb", title: `${picture.name}, ${bytes(picture.file.size)}` },
      h("span", { class: "thumb-name" }, picture.name),
      isMask(picture.name) && h("span", { class: "thumb-kind" }, "mask"),
      remove,
    );
    this.items.set(picture.id, item);
    this.list.append(item);
    this.waiting.push(picture);
    void this.work();
  }

  /** Marks the masks that are left out, and no others. */
  markLost(lost: ReadonlyMap<Picture, string>): void {
    const ids = new Set([...lost.keys()].map((mask) => mask.id));
    for (const [id, item] of this.items) {
      const kind = item.querySelector<HTMLElement>(".thumb-kind");
      if (kind) setText(kind, ids.has(id) ? "left out" : "mask");
      item.classList.toggle("is-lost", ids.has(id));
    }
  }

  clear(): void {
    this.items.clear();
    this.waiting.length = 0;
    this.list.replaceChildren();
  }

  private removeByHand(picture: Picture): void {
    const item = this.items.get(picture.id);
    const next = item?.nextElementSibling ?? item?.previousElementSibling;
    this.items.delete(picture.id);
    item?.remove();
    this.onRemove(picture);
    next?.querySelector<HTMLElement>(".thumb-remove")?.focus();
  }

  private async work(): Promise<void> {
    if (this.running >= AT_ONCE) return;
    this.running += 1;
    for (let picture = this.waiting.shift(); picture; picture = this.waiting.shift()) {
      const item = this.items.get(picture.id);
      if (item) await this.draw(picture, item);
    }
    this.running -= 1;
  }

  private async draw(picture: Picture, item: HTMLLIElement): Promise<void> {
    try {
      const bitmap = await createImageBitmap(picture.file, { resizeWidth: SIDE, resizeQuality: "medium" });
      const canvas = h("canvas", { width: bitmap.width, height: bitmap.height, "aria-hidden": "true" });
      canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
      bitmap.close();
      item.prepend(canvas);
      item.classList.add("has-picture");
    } catch {
      if (!OPENABLE.test(picture.name)) return;
      picture.damaged = true;
      item.classList.add("is-damaged");
      item.append(h("span", { class: "thumb-problem" }, "cannot be opened"));
      this.onDamaged(picture);
    }
  }
}
