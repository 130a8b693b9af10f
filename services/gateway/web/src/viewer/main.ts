// The viewer page behind a share link: finds the scene, waits for it if need be, shows it.
import "../styles/viewer.css";
import { ApiError, call, infoOf } from "../lib/api";
import { byId, setText, show } from "../lib/dom";
import { fillDownloads } from "../lib/downloads";
import { bytes, count, timeLeft } from "../lib/format";
import { stageText } from "../lib/status";
import type { Scene } from "../lib/types";
import { onThisHost } from "../lib/urls";
import { hasWebGl2 } from "../lib/webgl";
import { curtain, raise } from "./curtain";
import { fetchFile, type SceneFile, showable, Truncated } from "./files";
import { openPanel, showHint, toggleFullscreen, togglePanel, wireHud } from "./hud";
import { wireInput } from "./input";
import type { Stage } from "./stage";

const POLL_MS = 3000;
const key = location.pathname.split("/").filter(Boolean).at(-1) ?? "";
const wish = new URLSearchParams(location.search).get("format");
const box = byId("stage");
const HOME = { label: "To the start page", href: "/" };
const RELOAD = { label: "Try again", run: () => location.reload(), primary: true };

type State = "loading" | "ready" | "error";

function setState(state: State): void {
  document.body.dataset.state = state;
}

function fail(
  title: string,
  text: string,
  actions: Parameters<typeof curtain>[0]["actions"] = [RELOAD, HOME],
): void {
  setState("error");
  curtain({ title, text, actions });
}

/** Asks for the scene until it is done; says how far it is meanwhile. */
async function find(): Promise<void> {
  let scene: Scene;
  try {
    scene = await call<Scene>(`/recon/pub/${encodeURIComponent(key)}`);
  } catch (error) {
    const info = infoOf(error);
    if (error instanceof ApiError && error.status === 404) {
      fail(
        "No scene here",
        "This link leads to no scene. It may have been deleted, or cut short when it was copied.",
        [{ ...HOME, primary: true }],
      );
    } else if (document.body.dataset.waiting === "true" && info.retryable) {
      window.setTimeout(() => void find(), POLL_MS); // The server restarts: the wait goes on.
    } else {
      fail(info.message, info.remedy ?? "");
    }
    return;
  }
  const title = scene.title || "Scene";
  setText(byId("scene-title"), title);
  document.title = `${title} · Splatmill`;
  // A job that is made anew keeps the scene it had until there is a new one.
  const there = showable(scene.artifacts ?? [], wish).length > 0;
  if (there || scene.status === "COMPLETED") await open(scene);
  else if (scene.status === "FAILED" || scene.status === "CANCELLED") {
    const what =
      scene.status === "FAILED"
        ? "The photos did not become a scene."
        : "It was cancelled before it was done.";
    fail("There is no scene to show", what, [{ ...HOME, primary: true }]);
  } else {
    wait(scene);
    window.setTimeout(() => void find(), POLL_MS);
  }
}

function wait(scene: Scene): void {
  document.body.dataset.waiting = "true";
  const percent = typeof scene.fraction === "number" ? `${Math.floor(scene.fraction * 100)} %` : "";
  const parts = [
    scene.status === "PENDING" && scene.queue_position ? `number ${scene.queue_position} in the queue` : "",
    scene.status === "PROCESSING" && scene.stage ? stageText(scene.stage) : "",
    typeof scene.eta_seconds === "number" ? timeLeft(scene.eta_seconds) : "",
  ].filter((part) => part !== "");
  curtain({
    title: percent ? `Still in the making: ${percent}` : "Still in the making",
    text: "The scene opens here by itself when it is done.",
    detail: parts.join(" · "),
    fraction:
      scene.status === "PROCESSING"
        ? (scene.fraction ?? null)
        : scene.status === "PENDING"
          ? undefined
          : null,
  });
  if (percent) document.title = `${percent} · ${scene.title || "Splatmill"}`;
}

/** Loads the wished or the best file and shows it. */
async function open(scene: Scene): Promise<void> {
  if (!hasWebGl2()) {
    fail(
      "This browser cannot show it",
      "The viewer needs WebGL 2. Use a current browser, and switch hardware acceleration on in its settings.",
      [
        { label: "Download the scene", href: onThisHost(scene.artifacts?.[0]?.url ?? "/"), primary: true },
        HOME,
      ],
    );
    return;
  }
  const files = showable(scene.artifacts ?? [], wish);
  const [file] = files;
  if (!file) {
    fail("Its files are gone", "The scene was finished, but none of its files is left on the server.", [
      HOME,
    ]);
    return;
  }
  try {
    await showFile(scene, file, files);
  } catch (error) {
    failFile(error, file, files);
  }
}

async function showFile(scene: Scene, file: SceneFile, files: SceneFile[]): Promise<void> {
  const engine = import("./stage"); // Fetched beside the scene.
  engine.catch(() => undefined); // Reported by the await below, not as unhandled.
  const data = await fetchFile(file.artifact, (received, total) => {
    curtain({
      title: "Opening the scene",
      detail: `${bytes(received)} of ${bytes(total)}`,
      fraction: total > 0 ? received / total : null,
    });
  });
  curtain({ title: "Opening the scene", detail: "Unpacking the splats …", fraction: null });
  const { Stage } = await engine;
  const stage = new Stage(box, {
    onSettled: (settled) => {
      document.body.dataset.settled = String(settled);
    },
    onLost: () =>
      fail("The graphics card let go of the scene", "This happens when memory is short. Close other tabs."),
  });
  const loaded = await stage.load(data, file.type);
  const expected = scene.gaussian_count ?? 0;
  const anew = scene.status === "PENDING" || scene.status === "PROCESSING";
  setText(byId("count"), `${count(loaded)} splats${anew ? " · a new scene is in the making" : ""}`);
  fillDownloads(byId("downloads"), scene.artifacts ?? []);
  if (loaded === 0) throw new Truncated(0, file.artifact.size_bytes);
  if (loaded < expected) {
    const text = `Only ${count(loaded)} of ${count(expected)} splats arrived: the file on the server is not whole.`;
    fail("A part of the scene is missing", text, [
      ...otherFormats(file, files),
      { label: "Show what there is", run: () => ready(stage) },
      HOME,
    ]);
    return;
  }
  ready(stage);
}

function ready(stage: Stage): void {
  wireHud(stage, box);
  wireInput(box, stage, {
    toggleFullscreen,
    toggleHelp: () => togglePanel("help-panel"),
    closePanels: () => openPanel(null),
  });
  raise();
  setState("ready");
  showHint(box);
  stage.draw();
}

function otherFormats(
  file: SceneFile,
  files: SceneFile[],
): { label: string; href: string; primary: boolean }[] {
  return files
    .filter((other) => other.type !== file.type)
    .slice(0, 1)
    .map((other) => ({
      label: `Open ${other.artifact.name} instead`,
      href: `?format=${other.type}`,
      primary: true,
    }));
}

function failFile(error: unknown, file: SceneFile, files: SceneFile[]): void {
  const others = otherFormats(file, files);
  if (error instanceof Truncated) {
    const text = `Only ${bytes(error.received)} of ${bytes(error.expected)} arrived. The connection may have broken.`;
    fail("A part of the scene is missing", text, [
      RELOAD,
      ...others.map((other) => ({ ...other, primary: false })),
      HOME,
    ]);
  } else if (error instanceof ApiError) {
    fail(error.info.message, error.info.remedy ?? "", [RELOAD, HOME]);
  } else {
    fail(`${file.artifact.name} cannot be read`, "The file is damaged, or this browser ran out of memory.", [
      ...others,
      { ...RELOAD, primary: others.length === 0 },
      HOME,
    ]);
  }
}

show(byId("hud"), false);
curtain({ title: "Opening the scene", fraction: null });
void find();
