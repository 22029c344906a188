// A formula as MathML elements, from the tree that the build made of its TeX.
import { h, type VNode } from "preact";
import type { MathNode } from "../data/types";

export function Formula({ node }: { node: MathNode }) {
  return <div class="formula" tabIndex={0} role="group" aria-label="Formula">{drawn(node)}</div>;
}

function drawn([tag, attributes, ...children]: MathNode): VNode {
  return h(tag, attributes || {}, ...children.map((child) => (typeof child === "string" ? child : drawn(child))));
}
