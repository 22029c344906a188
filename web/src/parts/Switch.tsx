// On or off. `wrong`: it makes the model compute something false on purpose.
import "./parts.css";

export interface SwitchProps {
  label: string;
  on: boolean;
  title?: string;
  wrong?: boolean;
  onChange: (on: boolean) => void;
}

export function Switch({ label, on, title, wrong = false, onChange }: SwitchProps) {
  return (
    <button class="switch" role="switch" aria-checked={on} data-wrong={wrong} title={title} onClick={() => onChange(!on)}>
      <span class="switch-knob" aria-hidden="true" /> {label}
    </button>
  );
}
