// A number within bounds. While it is dragged the page follows; letting go makes a step of history.
import { readable } from "../arithmetic/number";
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
  return (
    <label class="slider">
      <span>{label}</span>
      <input
        type="range" min={min} max={max} step={step} value={value} aria-valuetext={format(value)}
        onInput={(event) => onChange(Number(event.currentTarget.value), true)} onChange={(event) => onChange(Number(event.currentTarget.value), false)}
      />
      <output>{format(value)}</output>
    </label>
  );
}
