// How much time a training may take: a card for each preset, with what it comes to on the devices there.
import { byId, h, setText, show } from "../lib/dom";
import { roughly } from "../lib/format";
import type { OptionInfo, TrainingDevice } from "../lib/types";

const HINTS: Record<string, string> = {
  draft: "To see whether the photos work.",
  standard: "A good scene.",
  high: "More detail, if the photos are sharp.",
};

/** Fills the cards from the option as the server describes it; answers whether there are any. */
export function fillPresets(option: OptionInfo | undefined): boolean {
  const usual = String(option?.default_value ?? "");
  const cards = (option?.choices ?? []).map((choice) =>
    h(
      "label",
      { class: "preset" },
      h("input", { type: "radio", name: "preset", value: choice, checked: choice === usual }),
      h("strong", {}, choice.charAt(0).toUpperCase() + choice.slice(1)),
      h("span", { class: "muted" }, HINTS[choice] ?? ""),
      h("span", { class: "preset-estimate", "data-preset": choice }),
    ),
  );
  byId("preset-cards").replaceChildren(...cards);
  show(byId("presets"), cards.length > 0);
  return cards.length > 0;
}

/** Writes onto the cards what the presets come to; nothing where nothing is known. */
export function showEstimates(devices: TrainingDevice[]): void {
  const known = devices.filter((device) => device.presets.length > 0);
  for (const span of document.querySelectorAll<HTMLElement>("[data-preset]")) {
    const lines = known.flatMap((device) => {
      const found = device.presets.find((preset) => preset.preset === span.dataset.preset);
      if (!found) return [];
      const where = known.length > 1 ? ` on ${kindOf(device)}` : "";
      return [h("span", {}, `about ${roughly(found.seconds)}, ${gigabytes(found.memory_bytes)}${where}`)];
    });
    span.replaceChildren(...lines);
  }
  const names = known.map((device) => (device.device === "cpu" ? `${device.name} (CPU)` : device.name));
  const note = `Time and memory of training about 40 photos on ${names.join(" or ")}.`;
  setText(byId("preset-note"), known.length > 0 ? note : "");
}

/** 686921216 → "0.7 GB": more digits would be made up. */
function gigabytes(value: number): string {
  return `${Math.max(0.1, value / 1e9).toFixed(1)} GB`;
}

function kindOf(device: TrainingDevice): string {
  return device.device === "cpu" ? "CPU" : device.name;
}

/** The preset that was chosen, unless the server would take it anyway. */
export function chosenPreset(): [string, string][] {
  const checked = byId("preset-cards").querySelector<HTMLInputElement>("input:checked");
  return checked && !checked.defaultChecked ? [["preset", checked.value]] : [];
}
