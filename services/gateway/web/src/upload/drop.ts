// Reading files and whole folders out of a drop.

type Entry = FileSystemEntry;

/** Where dropped files lay: they do not say it themselves, as those of a chosen folder do. */
const paths = new WeakMap<File, string>();

/** The folder that a file was chosen or dropped with; empty for one without. */
export function folderOf(file: File): string {
  const path = paths.get(file) ?? file.webkitRelativePath;
  return path.slice(0, Math.max(0, path.lastIndexOf("/")));
}

/** All files of a drop, folders opened; hidden files are left out. */
export async function filesOf(transfer: DataTransfer): Promise<File[]> {
  // Entries must be taken before the first await: the list is emptied when the event ends.
  const entries = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? null);
  const plain = [...transfer.files];
  if (entries.length === 0 || entries.some((entry) => entry === null)) return plain;
  const found: File[] = [];
  for (const entry of entries) if (entry) await collect(entry, found);
  return found;
}

async function collect(entry: Entry, into: File[]): Promise<void> {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    const file = await fileOf(entry as FileSystemFileEntry);
    paths.set(file, entry.fullPath);
    into.push(file);
  } else if (entry.isDirectory) {
    const reader = (entry as FileSystemDirectoryEntry).createReader();
    const children: Entry[] = [];
    for (let batch = await read(reader); batch.length > 0; batch = await read(reader))
      children.push(...batch);
    children.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    for (const child of children) await collect(child, into);
  }
}

function fileOf(entry: FileSystemFileEntry): Promise<File> {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}

/** A reader answers at most 100 entries a call. */
function read(reader: FileSystemDirectoryReader): Promise<Entry[]> {
  return new Promise((resolve, reject) => reader.readEntries(resolve, reject));
}

/** Whether a drag carries files, and not text or a link. */
export function carriesFiles(event: DragEvent): boolean {
  return event.dataTransfer?.types.includes("Files") ?? false;
}
