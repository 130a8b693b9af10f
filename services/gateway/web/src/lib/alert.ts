import { h } from "./dom";
import type { ErrorInfo } from "./types";

/** Fills an alert with what happened and what to do; null hides it. */
export function showError(box: HTMLElement, info: ErrorInfo | null): void {
  box.hidden = info === null;
  if (info === null) {
    box.replaceChildren();
    return;
  }
  box.replaceChildren(
    h("p", { class: "alert-message" }, info.message),
    info.remedy ? h("p", { class: "alert-remedy" }, info.remedy) : "",
    h("p", { class: "alert-reason" }, h("code", {}, info.reason)),
  );
}
