// A word with an explanation that appears over it.
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import "./parts.css";

export function Tooltip({ text, children }: { text: string; children: ComponentChildren }) {
  const id = useId();
  return (
    <span class="tooltip">
      <button type="button" class="plain explained" aria-describedby={id}>{children}</button>
      <span role="tooltip" id={id}>{text}</span>
    </span>
  );
}
