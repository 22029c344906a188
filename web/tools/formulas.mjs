// Turns the TeX of an explain.ts into a tree of MathML when the page is built: the page draws the tree as elements, and
// neither KaTeX nor text that is parsed as HTML is part of it.
import { transformSync } from "esbuild";
import katex from "katex";
import { readFileSync } from "node:fs";

const ROLES = { blue: "query", red: "key", green: "value", purple: "output" }; // \textcolor{blue}{q} and so on

export const formulas = {
  name: "formulas",
  setup(build) {
    build.onLoad({ filter: /[\\/]explain\.ts$/ }, async ({ path }) => {
      const { code } = transformSync(readFileSync(path, "utf8"), { loader: "ts", format: "esm" });
      const { explain } = await import(`data:text/javascript,${encodeURIComponent(code)}`);
      const { tex, ...rest } = explain;
      return { contents: `export const explain = ${JSON.stringify({ ...rest, formula: tree(tex) })}`, loader: "js" };
    });
  },
};

export function tree(tex) {
  const text = katex.renderToString(tex, { output: "mathml", displayMode: true, throwOnError: true, strict: "error" });
  return parsed(text.slice(text.indexOf("<math"), text.lastIndexOf("</math>") + 7));
}

/** KaTeX writes well-formed MathML: tags, attributes in double quotes, text. */
function parsed(text) {
  const top = { children: [] };
  const open = [top];
  for (const [, close, tag, attributes, self, words] of text.matchAll(/<(\/?)([\w-]+)([^>]*?)(\/?)>|([^<]+)/g)) {
    if (words !== undefined) open.at(-1).children.push(plain(words));
    else if (close) open.pop();
    else {
      const node = { tag, attributes: named(attributes), children: [] };
      if (tag !== "annotation") open.at(-1).children.push(node); // the TeX itself, for copying
      if (!self) open.push(node);
    }
  }
  return short(unwrapped(top.children[0]));
}

/** [tag, attributes or 0, ...children], as src/panels/view.ts has it. */
function short({ tag, attributes, children }) {
  const inner = children.map((child) => (typeof child === "string" ? child : short(child)));
  return [tag, Object.keys(attributes).length ? attributes : 0, ...inner];
}

function named(attributes) {
  const found = {};
  for (const [, name, value] of attributes.matchAll(/([\w:-]+)="([^"]*)"/g)) {
    if (name === "mathcolor" && ROLES[value]) found.class = ROLES[value];
    else if (name !== "xmlns" && name !== "style") found[name] = plain(value);
  }
  return found;
}

/** Without <semantics>, of which only the first part is left. */
function unwrapped(node) {
  const children = node.children.flatMap((one) =>
    typeof one === "string" ? [one] : one.tag === "semantics" ? unwrapped(one).children : [unwrapped(one)]);
  return { ...node, children };
}

function plain(text) {
  const names = { amp: "&", lt: "<", gt: ">", quot: '"', "#x27": "'" };
  return text.replace(/&([\w#]+);/g, (whole, name) => names[name] ?? whole);
}
