// The sign-in page: an API key for a cookie.
import "../styles/signin.css";
import { showError } from "../lib/alert";
import { call, infoOf } from "../lib/api";
import { byId } from "../lib/dom";

/** Where to go then: a path of this site, whatever the address says. */
function nextPath(): string {
  const next = new URLSearchParams(location.search).get("next") ?? "/";
  return /^\/(?![/\\])/.test(next) ? next : "/";
}

async function signIn(): Promise<void> {
  showError(byId("signin-error"), null);
  try {
    const key = byId<HTMLInputElement>("api-key").value.trim();
    await call("/recon/session", { method: "POST", body: JSON.stringify({ api_key: key }) });
    location.assign(nextPath());
  } catch (error) {
    showError(byId("signin-error"), infoOf(error));
    byId("signin-error").focus();
  }
}

byId<HTMLFormElement>("signin-form").addEventListener("submit", (event) => {
  event.preventDefault();
  void signIn();
});
