// Makes the page: page.js, page.css, formulas.json and licences.txt, in src/fathom/glass/built or the folder of --out.
// --stories makes the page of fixed data instead, in stories/; --watch makes either again when a source changes. --stamp is
// the hash of the sources, by which build_backend.py finds that nothing changed.
import { build, context } from "esbuild";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { licences } from "./tools/licences.mjs";
import { formulas } from "./tools/formulas.mjs";
import { prose, PROSE } from "./tools/prose.mjs";
import { palettes } from "./tools/palettes.mjs";
import { minify } from "terser";

const here = dirname(fileURLToPath(import.meta.url));
const { values: asked } = parseArgs({
  options: { out: { type: "string" }, stamp: { type: "string" }, stories: { type: "boolean" }, watch: { type: "boolean" } },
});
const out = resolve(asked.out ?? join(here, asked.stories ? "stories" : "../src/fathom/glass/built"));

const options = {
  absWorkingDir: here,
  entryPoints: { page: asked.stories ? "src/stories/stories.tsx" : "src/main.tsx" },
  outdir: out,
  bundle: true,
  minify: !asked.stories,
  format: "iife",
  target: "es2022",
  tsconfigRaw: { compilerOptions: { jsx: "react", jsxFactory: "createElement", jsxFragmentFactory: "Fragment" } }, // shorter calls
  inject: ["tools/jsx.mjs"],
  charset: "ascii", // a page may be saved and opened in any encoding
  legalComments: "none", // the whole texts are in licences.txt
  metafile: true,
  logLevel: "warning",
  plugins: [prose, palettes, { name: "licences", setup: (made) => made.onEnd(beside) }],
};

/** Makes the script smaller once more: Terser names and folds better than esbuild. The licences go beside it. */
async function beside(result) {
  if (!result.metafile) return;
  const stamp = asked.stamp ? `Made of sources with SHA-256 ${asked.stamp}.\n\n` : "";
  writeFileSync(join(out, "licences.txt"), stamp + licences(here, Object.keys(result.metafile.inputs), ["d3-scale-chromatic"]));
  if (asked.stories) return;
  writeFileSync(join(out, "formulas.json"), JSON.stringify(formulas(PROSE)));
  const script = join(out, "page.js");
  const { code } = await minify(readFileSync(script, "utf8"), {
    ecma: 2022, toplevel: true, compress: { passes: 3, inline: 1, unsafe: true, unsafe_arrows: true }, format: { ascii_only: true },
  });
  writeFileSync(script, code + "\n");
}

rmSync(out, { recursive: true, force: true });
if (asked.watch) await (await context(options)).watch();
else await build(options);
