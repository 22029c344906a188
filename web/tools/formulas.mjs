// Turns the TeX in the panels' texts (src/fathom/glass/prose) into trees of MathML: the page draws a tree as elements, and
// neither KaTeX nor text that is parsed as HTML is part of it.
import katex from "katex";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const ROLES = { blue: "query", red: "key", green: "value", purple: "output" }; // \textcolor{blue}{q} and so on

/** The tree of each panel, by its id. */
export function formulas(prose) {
  const files = readdirSync(prose).filter((name) => name.endsWith(".txt")).sort();
  const texts = files.map((name) => [name.slice(0, -4), readFileSync(join(prose, name), "utf8").split("$$")[1]]);
  return Object.fromEntries(texts.filter(([, tex]) => tex).map(([id, tex]) => [id, tree(tex.trim())]));
}

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

/** [tag, attributes or 0, ...children], as src/data/types.ts has it. */
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
