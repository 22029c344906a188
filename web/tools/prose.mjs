// The texts of the panels and of the tour, which the page gets with its data from Python (src/fathom/glass/texts.py); the
// stories have no Python, and import them as "prose:about".
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { formulas } from "./formulas.mjs";

export const PROSE = join(dirname(fileURLToPath(import.meta.url)), "../../src/fathom/glass/prose");

export const prose = {
  name: "prose",
  setup(build) {
    build.onResolve({ filter: /^prose:about$/ }, ({ path }) => ({ path, namespace: "prose" }));
    build.onLoad({ filter: /.*/, namespace: "prose" }, () => ({ contents: `export default ${JSON.stringify(about())}`, loader: "js" }));
  },
};

const paragraphs = (text) => text.split("\n\n").map((one) => one.split(/\s+/).join(" ").trim()).filter(Boolean);

function about() {
  return Object.entries(formulas(PROSE)).map(([id, formula]) => {
    const [text, ...noted] = readFileSync(join(PROSE, `${id}.txt`), "utf8").split("\n# ");
    const [question, ...sentences] = paragraphs(text.split("$$")[0]);
    return { id, place: "Text", title: id, question, sentences, notes: Object.fromEntries(noted.map(paragraphs)), formula };
  });
}
