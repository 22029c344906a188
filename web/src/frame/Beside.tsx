// Which of two models is shown, or what the second changes.
import { about } from "../app";
import { sides } from "../data/store";
import type { Shown } from "../data/types";
import { Segmented } from "../parts/Segmented";
import { panel, show } from "../state";

export function BesideSwitch() {
  const both = sides.value;
  if (!both?.B) return null;
  const choices = [
    { value: "A", label: "A", title: both.A.model },
    { value: "B", label: "B", title: both.B.model },
    { value: "B-A", label: "B − A", title: "what B changes, in signed colours" },
  ] as const;
  return (
    <>
      <Segmented<Shown> label="Model shown" choices={choices} value={show.value} onChange={(value) => (show.value = value)} />
      {panel.value !== "lora" && about.value.some(({ id }) => id === "lora") ? <button onClick={() => (panel.value = "lora")}>Which weights changed?</button> : null}
    </>
  );
}
