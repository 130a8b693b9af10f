// Copying that also works over plain HTTP on a local network, where `navigator.clipboard` does not exist.

/** Copies text; answers whether it worked. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.readOnly = true;
    area.className = "visually-hidden";
    document.body.append(area);
    const focused = document.activeElement;
    area.select();
    // eslint-disable-next-line @typescript-eslint/no-deprecated -- the only way without HTTPS
    const copied = document.execCommand("copy");
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
    return copied;
  }
}
