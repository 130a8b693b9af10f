// The list of a scene's files.
import { h } from "./dom";
import { bytes } from "./format";
import type { Artifact } from "./types";
import { onThisHost } from "./urls";

const ABOUT: Record<string, string> = {
  "scene.spz": "Compact, with view-dependent colour. What the viewer shows.",
  "scene.splat": "Plain 32 bytes a splat, for most web viewers.",
  "cloud.ply": "Full precision, outliers removed. For editors.",
  "point_cloud.ply": "Full precision, as trained.",
  "scene.splat44": "44 bytes a splat, with float quaternions.",
};
const ORDER = Object.keys(ABOUT);

/** Fills a list with links, the most useful first. */
export function fillDownloads(list: HTMLElement, artifacts: Artifact[]): void {
  const rank = (name: string) => (ORDER.indexOf(name) + 1 || ORDER.length + 1) - 1;
  const sorted = [...artifacts].sort((a, b) => rank(a.name) - rank(b.name) || a.name.localeCompare(b.name));
  list.replaceChildren(
    ...sorted.map((file) =>
      h(
        "li",
        {},
        h(
          "a",
          { href: onThisHost(file.url), download: file.name.split("/").at(-1) },
          h("strong", {}, file.name),
          h("span", { class: "size" }, bytes(file.size_bytes)),
          h("small", {}, ABOUT[file.name] ?? ""),
        ),
      ),
    ),
  );
}
