// The "Advanced" fold: a field for every option that the server describes.
import { h } from "../lib/dom";
import { count } from "../lib/format";
import type { OptionInfo, Stage } from "../lib/types";

const STAGES: [Stage, string][] = [
  ["sfm", "Finding the cameras"],
  ["train", "Training"],
  ["postproc", "Cleaning up"],
];
/** Have their own places on the page. */
const SHOWN_ELSEWHERE = new Set(["original_resolution", "preset"]);

const WORDS: Record<string, string> = { sh: "SH", std: "std", iter: "step", k: "k" };

/** "outlier_k_neighbors" → "Outlier k neighbors". */
export function labelOf(name: string): string {
  const words = name.split("_").map((word) => WORDS[word] ?? word);
  const text = words.join(" ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function defaultOf(option: OptionInfo): string {
  const value = option.default_value;
  return value === null || value === undefined || value === "" ? "" : String(value);
}

function select(option: OptionInfo, id: string): HTMLSelectElement {
  const preset = defaultOf(option).toLowerCase();
  const choices = option.type === "bool" ? ["true", "false"] : (option.choices ?? []);
  const shown = (choice: string) => (option.type === "bool" ? (choice === "true" ? "yes" : "no") : choice);
  return h(
    "select",
    { id, name: option.name, "aria-describedby": `${id}-help` },
    h(
      "option",
      { value: "" },
      preset && choices.includes(preset) ? `default (${shown(preset)})` : "automatic",
    ),
    ...choices.map((choice) => h("option", { value: choice }, shown(choice))),
  );
}

function numberField(option: OptionInfo, id: string): HTMLInputElement {
  return h("input", {
    id,
    name: option.name,
    type: "number",
    inputmode: option.type === "int" ? "numeric" : "decimal",
    step: option.type === "int" ? 1 : "any",
    min: option.minimum,
    max: option.maximum,
    placeholder: defaultOf(option) || "automatic",
    "aria-describedby": `${id}-help`,
  });
}

function rangeOf(option: OptionInfo): string {
  if (option.type !== "int" && option.type !== "float") return "";
  const shown = (value: number) => (Number.isInteger(value) ? count(value) : String(value));
  const { minimum, maximum } = option;
  // A seed's 2^63 - 1 tells nobody anything.
  if (typeof minimum === "number" && typeof maximum === "number" && maximum <= 1e12) {
    return ` ${shown(minimum)} to ${shown(maximum)}.`;
  }
  return typeof minimum === "number" ? ` At least ${shown(minimum)}.` : "";
}

/** Fills the fold; answers whether there is anything in it. */
export function fillOptions(box: HTMLElement, options: OptionInfo[]): boolean {
  const groups = STAGES.map(([stage, title]) => {
    const own = options.filter((option) => option.stage === stage && !SHOWN_ELSEWHERE.has(option.name));
    if (own.length === 0) return null;
    const fields = own.map((option) => {
      const id = `option-${option.name}`;
      const input =
        option.type === "bool" || option.type === "enum" ? select(option, id) : numberField(option, id);
      return h(
        "div",
        { class: "field" },
        h("label", { for: id }, labelOf(option.name)),
        input,
        h("small", { id: `${id}-help`, class: "muted" }, option.help + rangeOf(option)),
      );
    });
    return h("fieldset", {}, h("legend", {}, title), h("div", { class: "option-grid" }, ...fields));
  }).filter((group) => group !== null);
  box.replaceChildren(...groups);
  return groups.length > 0;
}

/** The options that the person has set, by name. */
export function chosenOptions(box: HTMLElement): [string, string][] {
  return [...box.querySelectorAll<HTMLInputElement | HTMLSelectElement>("input, select")]
    .filter((input) => input.value !== "")
    .map((input) => [input.name, input.value]);
}
