// Text of tokens made visible. It is drawn as text, never as markup.

const NAMES: Record<string, string> = { " ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍" };

// control characters, zero-width ones, and those that turn the direction of what follows
const HIDDEN = /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** Spaces as ·, line ends as ⏎, other characters that one cannot see by their number. */
export function visible(text: string): string {
  const shown = text.replace(/[ \n\t\r]/g, (one) => NAMES[one] ?? one).replace(HIDDEN, numbered);
  return shown === "" ? "∅" : shown;
}

function numbered(character: string): string {
  const code = character.charCodeAt(0);
  return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
}

/** At most `most` characters, with an ellipsis where something is left out. */
export function short(text: string, most: number): string {
  const characters = [...text];
  return characters.length <= most ? text : `${characters.slice(0, most - 1).join("")}…`;
}
