// What covers the stage until there is a picture: loading, waiting, errors.
import { byId, h, setText, show } from "../lib/dom";

export interface Action {
  label: string;
  run?: () => void;
  href?: string;
  primary?: boolean;
}

export interface CurtainText {
  title: string;
  text?: string;
  detail?: string;
  /** 0 to 1, null for "somewhere", undefined for no bar. */
  fraction?: number | null | undefined;
  actions?: Action[];
}

let actionsShown = "";

/** Shows the curtain with these words. */
export function curtain(words: CurtainText): void {
  show(byId("curtain"), true);
  setText(byId("curtain-title"), words.title);
  setText(byId("curtain-text"), words.text ?? "");
  setText(byId("curtain-detail"), words.detail ?? "");
  const bar = byId<HTMLProgressElement>("curtain-bar");
  show(bar, words.fraction !== undefined);
  if (typeof words.fraction === "number") bar.value = words.fraction;
  else bar.removeAttribute("value");
  const actions = words.actions ?? [];
  // Rebuilding the same buttons would take the focus from them.
  const signature = actions.map((action) => action.label + (action.href ?? "")).join("|");
  if (signature === actionsShown && actions.length === 0) return;
  actionsShown = signature;
  byId("curtain-actions").replaceChildren(
    ...actions.map((action) =>
      action.href !== undefined
        ? h("a", { class: `button ${action.primary ? "primary" : ""}`, href: action.href }, action.label)
        : h(
            "button",
            {
              class: `button ${action.primary ? "primary" : ""}`,
              type: "button",
              onclick: () => action.run?.(),
            },
            action.label,
          ),
    ),
  );
}

/** Takes the curtain away. */
export function raise(): void {
  show(byId("curtain"), false);
}
