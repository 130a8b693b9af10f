// Figures as people read them.

const COUNT = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 1234567 → "1,234,567". */
export function count(value: number): string {
  return COUNT.format(value);
}

/** 41234 → "41 k", 1234567 → "1.2 M". */
export function shortCount(value: number): string {
  if (value >= 999_500) return `${(value / 1e6).toFixed(value < 9.95e6 ? 1 : 0)} M`;
  if (value >= 10_000) return `${Math.round(value / 1000)} k`;
  return count(value);
}

/** Bytes in decimal units, as file managers and phones show them. */
export function bytes(value: number): string {
  if (value < 1000) return `${Math.round(value)} B`;
  if (value < 999_500) return `${Math.round(value / 1000)} kB`;
  if (value < 999.5e6) return `${(value / 1e6).toFixed(value < 9.95e6 ? 1 : 0)} MB`;
  return `${(value / 1e9).toFixed(1)} GB`;
}

/** 3725 → "1 h 2 min", 75 → "1 min 15 s", 9 → "9 s". */
export function duration(seconds: number): string {
  const total = Math.max(0, Math.round(seconds));
  if (total < 60) return `${total} s`;
  const minutes = Math.floor(total / 60);
  if (minutes < 60) return total % 60 && minutes < 10 ? `${minutes} min ${total % 60} s` : `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/** A time to come, as vague as it deserves: 12 → "15 s", 75 → "1 min", 4000 → "1 h 10 min". */
export function roughly(seconds: number): string {
  if (seconds <= 55) return `${Math.max(1, Math.ceil(seconds / 5)) * 5} s`;
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min`;
  return duration(Math.round(seconds / 600) * 600);
}

/** Time left. */
export function timeLeft(seconds: number): string {
  return seconds < 5 ? "a few seconds left" : `about ${roughly(seconds)} left`;
}

/** How long ago an ISO time was. */
export function ago(iso: string, now = Date.now()): string {
  const seconds = (now - Date.parse(iso)) / 1000;
  if (Number.isNaN(seconds)) return "";
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  const days = Math.round(seconds / 86_400);
  return days === 1 ? "yesterday" : `${days} days ago`;
}

/** "1 photo", "3 photos". */
export function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}
