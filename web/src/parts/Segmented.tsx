// One of a few choices, side by side.
import { step } from "../arithmetic/arrows";
import "./parts.css";

export interface SegmentedProps<T extends string | number> {
  label: string;
  choices: readonly { value: T; label: string; title?: string }[];
  value: T;
  onChange: (value: T) => void;
  /** Whether the label is to be seen. */
  named?: boolean;
}

export function Segmented<T extends string | number>({ label, choices, value, onChange, named = false }: SegmentedProps<T>) {
  const onKey = (event: KeyboardEvent): void => {
    const way = step(event.key);
    const at = choices.findIndex((one) => one.value === value);
    const next = way ? choices[(at + way + choices.length) % choices.length] : undefined;
    if (!next) return;
    event.preventDefault();
    onChange(next.value);
    const group = event.currentTarget as HTMLElement;
    queueMicrotask(() => group.querySelector<HTMLElement>("[aria-checked=true]")?.focus());
  };
  return (
    <span class="segmented-field">
      {named ? <span class="small">{label}</span> : null}
      <span class="segmented" role="radiogroup" aria-label={label} onKeyDown={onKey}>
        {choices.map((one) => (
          <button
            key={one.value} type="button" role="radio" aria-checked={one.value === value} title={one.title} tabIndex={one.value === value ? 0 : -1}
            onClick={() => onChange(one.value)}
          >
            {one.label}
          </button>
        ))}
      </span>
    </span>
  );
}
