// A number within bounds. While it is dragged the page follows; letting go makes a step of history. `value` is that of
// the data, which comes later: until then the slider stays where it was put.
import { useRef } from "preact/hooks";
import { readable } from "../arithmetic/number";
import { late } from "../state";
import "./parts.css";

export interface SliderProps {
  label: string;
  value: number;
  min: number;
  max: number;
  step?: number;
  format?: (value: number) => string;
  onChange: (value: number, dragged: boolean) => void;
}

export function Slider({ label, value, min, max, step = 1, format = readable, onChange }: SliderProps) {
  const put = useRef<number | null>(null);
  if (!late.now) put.current = null;
  const at = put.current ?? value;
  const change = (event: { currentTarget: HTMLInputElement }, dragged: boolean): void => onChange((put.current = Number(event.currentTarget.value)), dragged);
  return (
    <label class="slider">
      <span>{label}</span>
      <input
        type="range" min={min} max={max} step={step} value={at} aria-valuetext={format(at)}
        onInput={(event) => change(event, true)} onChange={(event) => change(event, false)}
      />
      <output>{format(at)}</output>
    </label>
  );
}
