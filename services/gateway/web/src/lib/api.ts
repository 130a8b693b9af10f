// HTTP calls to the gateway, with errors that say what to do.
import type { ErrorInfo } from "./types";

/** A refusal by the gateway, or no answer at all (status 0). */
export class ApiError extends Error {
  readonly status: number;
  readonly info: ErrorInfo;

  constructor(status: number, info: ErrorInfo) {
    super(info.message);
    this.name = "ApiError";
    this.status = status;
    this.info = info;
  }
}

export const NO_CONNECTION: ErrorInfo = {
  reason: "NO_CONNECTION",
  message: "Splatmill does not answer.",
  remedy: "Check the connection and that the server is running, then try again.",
  retryable: true,
};

/** Reads the gateway's error body; other servers' bodies become a plain sentence. */
export function errorFromBody(status: number, body: string): ErrorInfo {
  try {
    const parsed: unknown = JSON.parse(body);
    if (parsed && typeof parsed === "object" && "error" in parsed) {
      const error = parsed.error as Partial<ErrorInfo> | null;
      if (error && typeof error.message === "string") {
        return {
          reason: error.reason ?? "ERROR",
          message: error.message,
          remedy: error.remedy ?? "",
          retryable: error.retryable ?? false,
        };
      }
    }
  } catch {
    // Not JSON: a proxy's page, for instance.
  }
  if (status === 413) {
    return {
      reason: "TOO_LARGE",
      message: "The upload is larger than the server accepts.",
      remedy: "Choose fewer or smaller photos.",
    };
  }
  return {
    reason: `HTTP_${status}`,
    message: `The server answered with status ${status}.`,
    remedy: status >= 500 ? "Wait a moment and try again." : "",
    retryable: status >= 500,
  };
}

/** Goes to the page that asks for an API key, and comes back from there. */
function askToSignIn(): void {
  location.assign(`/signin?next=${encodeURIComponent(location.pathname)}`);
}

/** Calls a path and answers its JSON (undefined for an empty body). */
export async function call<T>(path: string, init: Pick<RequestInit, "method" | "body"> = {}): Promise<T> {
  let response: Response;
  let body: string;
  try {
    response = await fetch(path, { ...init, headers: { Accept: "application/json" } });
    body = await response.text();
  } catch {
    throw new ApiError(0, NO_CONNECTION);
  }
  if (response.status === 401 && location.pathname !== "/signin") askToSignIn();
  if (!response.ok) throw new ApiError(response.status, errorFromBody(response.status, body));
  if (body === "") return undefined as T;
  try {
    return JSON.parse(body) as T;
  } catch {
    throw new ApiError(response.status, {
      reason: "BAD_ANSWER",
      message: "The server's answer could not be read.",
      remedy: "Reload the page.",
    });
  }
}

/** What to show of any error that a call threw. */
export function infoOf(error: unknown): ErrorInfo {
  if (error instanceof ApiError) return error.info;
  return {
    reason: "ERROR",
    message: error instanceof Error && error.message ? error.message : "Something went wrong.",
    remedy: "Reload the page and try again.",
  };
}
