// Runs every src/**/*.test.ts with node's own test runner: bundled first, since Node 20 reads no TypeScript.
import { build } from "esbuild";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { palettes } from "./palettes.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const tests = readdirSync(join(root, "src"), { recursive: true }).filter((name) => /\.test\.tsx?$/.test(name));
const out = mkdtempSync(join(tmpdir(), "fathom-web-"));
try {
  await build({
    absWorkingDir: root, entryPoints: tests.map((name) => join("src", name)), outdir: out, outExtension: { ".js": ".mjs" },
    bundle: true, platform: "node", format: "esm", jsx: "automatic", jsxImportSource: "preact", plugins: [palettes],
    loader: { ".css": "empty" }, logLevel: "warning",
  });
  const files = readdirSync(out, { recursive: true }).filter((name) => name.endsWith(".mjs")).map((name) => join(out, name));
  process.exitCode = spawnSync(process.execPath, ["--test", ...files], { stdio: "inherit" }).status ?? 1;
} finally {
  rmSync(out, { recursive: true, force: true });
}
