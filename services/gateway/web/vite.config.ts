import { defineConfig } from "vite";

declare const process: { env: Record<string, string | undefined> };

// Where the gateway listens while the pages are served by `npm run dev`.
const gateway = process.env.SPLATMILL_GATEWAY ?? "http://localhost:8000";

export default defineConfig({
  // Nothing is copied as it is: every file goes through the bundler and gets a hashed name.
  publicDir: false,
  build: {
    target: "es2022",
    // Data URLs would need exceptions in the content security policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: "assets/licenses.md" },
    // The viewer's engine is one chunk of about 3 MB, loaded only when there is a scene to show.
    chunkSizeWarningLimit: 3500,
    rolldownOptions: {
      input: ["index.html", "job.html", "viewer.html", "notfound.html", "signin.html"],
    },
  },
  server: {
    proxy: { "/recon": gateway, "/healthz": gateway },
  },
  plugins: [
    {
      // The gateway's page routes, for `npm run dev`.
      name: "splatmill-routes",
      configureServer(server) {
        server.middlewares.use((incoming, _response, next) => {
          const request = incoming as unknown as { url?: string };
          if (request.url?.startsWith("/jobs/")) request.url = "/job.html";
          else if (request.url?.startsWith("/v/")) request.url = "/viewer.html";
          else if (request.url?.startsWith("/signin")) request.url = "/signin.html";
          next();
        });
      },
    },
  ],
});
