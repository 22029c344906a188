// The licence text of every library of which something is in the bundle; `more`: of those whose data is, too.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

export function licences(root, inputs, more) {
  const names = inputs.map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]).filter(Boolean);
  return [...new Set([...names, ...more])].sort().map((name) => entry(join(root, "node_modules", name))).join("\n\n");
}

function entry(folder) {
  const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
  if (!file) throw new Error(`${about.name} has no licence text; expected a file LICENSE in its package`);
  const text = readFileSync(join(folder, file), "utf8").trim();
  return `${about.name} ${about.version} (${about.license})\n\n${text}\n`;
}
