/**
 * The same address on the host that this page came from. The gateway writes addresses for
 * sharing, with the host it is known by; the page itself may be open under another name
 * (localhost, an IP address), and may only load from there.
 */
export function onThisHost(url: string): string {
  const { pathname, search } = new URL(url, location.href);
  return pathname + search;
}
